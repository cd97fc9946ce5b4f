//! Bytes of a data set go from the socket to where the disk takes them from, without being copied in between.
//!
//! They come in values with headers between them. How long a value is, is known; that another follows it is likely,
//! and that it is as long as there is room. So its headers are received beside the data; where they say something
//! else, all after the value is taken as what was received elsewhere is.

use std::io::{IoSliceMut, Result};

use crate::connection::{Connection, Phase, Refusal};
use crate::keeping::Keeping;
use crate::lane::Lane;
use crate::socket::receive_into;
use crate::transit::BOTH;
use crate::trays::Trays;

/// Of a shorter value, what comes after it matters more.
const LEAST: usize = 4096;

/// What was received, how much there was room for, and what of it is still to be taken.
pub struct Landed {
    pub received: usize,
    pub room: usize,
    pub rest: Vec<u8>,
}

impl Lane {
    /// Receive data into an instance's tray; none if it has none, or is at no place for it.
    pub(crate) fn land(&mut self, connection: &mut Connection) -> Option<Result<Landed>> {
        let Phase::Receiving(arrival) = &mut connection.phase else { return None };
        let (coming, headers) = arrival.transit.coming();
        let (Ok(Keeping::Tray(tray)), Some(trays)) = (&mut arrival.file, &mut self.trays) else { return None };
        let most = Trays::left(tray.size);
        if coming < LEAST || most == 0 {
            return None;
        }
        let room = match trays.room(tray) {
            Ok(room) => room,
            Err(error) => {
                self.refuse(arrival, Refusal::of(&error));
                return None;
            }
        };
        let most = room.len().min(most);
        let (value, next) = room[..most].split_at_mut(coming.min(most));
        let (headers, next) = if next.is_empty() || headers == 0 { (0, &mut [][..]) } else { (headers, next) };
        let mut between = [0; BOTH];
        let mut pieces = [IoSliceMut::new(value), IoSliceMut::new(&mut between[..headers]), IoSliceMut::new(next)];
        let received = match receive_into(connection.descriptor, &mut pieces) {
            Ok(received) => received,
            Err(error) => return Some(Err(error)),
        };
        let of_value = received.min(value.len());
        let of_headers = (received - of_value).min(headers);
        let of_next = received - of_value - of_headers;
        let (room, between) = (value.len() + headers + next.len(), &between[..of_headers]);
        arrival.transit.passed(of_value);
        let mut after = arrival.transit.clone();
        let mut landed = Landed { received, room, rest: Vec::new() };
        let mut size = of_value;
        if of_next > 0 && after.goes_on(between, of_next) {
            after.passed(of_next);
            arrival.transit = after;
            size += of_next;
        } else {
            landed.rest = [between, &next[..of_next]].concat();
        }
        Trays::filled(tray, size);
        arrival.size += size as u64;
        if let Err(reason) = self.room.take(size as u64, &mut tray.taken) {
            self.refuse(arrival, Refusal::Full(reason));
        }
        Some(Ok(landed))
    }
}
