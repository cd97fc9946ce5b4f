//! What is received becomes instances: the beginning of one, and the bytes of its data set.

use std::borrow::Cow;
use std::io::Error;
use std::sync::Arc;

use crate::command::{self, Next, Store};
use crate::connection::{Arrival, Connection, Phase, Refusal, Request};
use crate::identity::{self, Identity, Reading};
use crate::lane::{End, Lane, Served};
use crate::socket;
use crate::transit::{Stop, Transit};

/// A message whose UIDs are not among so many bytes is no usual one.
const LONGEST_HELD: usize = 64 * 1024;
/// Pieces that one receive brings.
const FEW: usize = 16;

impl Lane {
    /// Use what was received.
    pub(crate) fn take(&mut self, token: u64, connection: &mut Connection, data: &[u8]) -> Served {
        let mut pieces = Vec::with_capacity(FEW);
        let (read, stop) = match &mut connection.phase {
            Phase::Receiving(arrival) => arrival.transit.read(data, &mut pieces),
            _ => match self.begin(connection, data, &mut pieces)? {
                Some(begun) => begun,
                None => return Ok(()),
            },
        };
        let Phase::Receiving(arrival) = &mut connection.phase else { return Ok(()) };
        arrival.size += size_of(&pieces);
        if stop == Stop::Dry {
            self.keep(arrival, &pieces);
            return Ok(());
        }
        let rest = [&arrival.transit.rest(), &data[read..]].concat();
        if stop == Stop::Foreign {
            return Err(End::holding(rest));
        }
        (connection.held, connection.looked) = (rest, false);
        self.finish(token, connection, &pieces)
    }

    /// Begin with a message; nothing has happened if there is too little of it, or anything else.
    fn begin<'a>(
        &mut self,
        connection: &mut Connection,
        data: &'a [u8],
        pieces: &mut Vec<&'a [u8]>,
    ) -> std::result::Result<Option<(usize, Stop)>, Box<End>> {
        let store = match command::next(data, self.max_pdu) {
            Next::Store(store) => store,
            Next::Unknown => return Self::wait(connection, data),
            Next::Other => return Err(End::holding(data.to_vec())),
        };
        let context =
            connection.context(store.context_id).filter(|context| context.sop_class.as_bytes() == store.sop_class);
        let Some(context) = context else { return Err(End::holding(data.to_vec())) };
        let mut transit = Transit::begin(store.context_id, self.max_pdu, store.left);
        let (read, stop) = transit.read(&data[store.read..], pieces);
        let first = first(pieces);
        let identity = match identity::read(&first, context.implicit) {
            Reading::Found(identity) if fits(&identity, &store) => identity,
            Reading::Short if stop == Stop::Dry => {
                connection.begun.get_or_insert_with(socket::now);
                return Self::wait(connection, data);
            }
            _ => return Err(End::holding(data.to_vec())),
        };
        let epoch = self.board.as_ref().map_or(0, |board| board.dealt().1);
        let Some(file) = self.create(context.file_header(store.sop_instance), connection.long) else {
            return Err(End::holding(data.to_vec()));
        };
        connection.since = connection.begun.take().unwrap_or_else(socket::now);
        connection.phase = Phase::Receiving(Box::new(Arrival {
            request: Request::of(&store),
            context: Arc::clone(&context),
            transit,
            file: Ok(file),
            epoch,
            size: 0,
            sop_instance: text(identity.sop_instance),
            study: text(identity.study),
            series: text(identity.series),
        }));
        Ok(Some((store.read + read, stop)))
    }

    fn wait<T>(connection: &mut Connection, data: &[u8]) -> std::result::Result<Option<T>, Box<End>> {
        if data.len() > LONGEST_HELD {
            return Err(End::holding(data.to_vec()));
        }
        (connection.held, connection.looked) = (data.to_vec(), true);
        Ok(None)
    }
}

impl Refusal {
    pub fn of(error: &Error) -> Self {
        Self::Disk(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Return the first bytes of a data set: as they were received, unless they came in several pieces.
fn first<'a>(pieces: &[&'a [u8]]) -> Cow<'a, [u8]> {
    if let [piece] = pieces {
        return Cow::Borrowed(piece);
    }
    let mut joined = Vec::new();
    for piece in pieces {
        let room = LONGEST_HELD - joined.len();
        joined.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    Cow::Owned(joined)
}

pub(crate) fn size_of(pieces: &[&[u8]]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

fn fits(identity: &Identity<'_>, store: &Store<'_>) -> bool {
    identity.sop_class == store.sop_class && identity.sop_instance == store.sop_instance
}

fn text(uid: &[u8]) -> String {
    String::from_utf8_lossy(uid).into_owned()
}
