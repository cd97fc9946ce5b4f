//! The usual C-STORE-RQ, and the response that says Success (PS3.7 §6.3, §9.3.1).

use crate::transit::{COMMAND, HEADER, LAST, P_DATA_TF, word};

const C_STORE_RQ: u16 = 0x0001;
const C_STORE_RSP: u16 = 0x8001;
const NO_DATA_SET: u16 = 0x0101;
const SUCCESS: u16 = 0x0000;
/// A command set of more is none of the usual ones.
const LONGEST: u32 = 1024;

const GROUP_LENGTH: u16 = 0x0000;
const SOP_CLASS: u16 = 0x0002;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const RESPONDED_ID: u16 = 0x0120;
const PRIORITY: u16 = 0x0700;
const DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const SOP_INSTANCE: u16 = 0x1000;
const MOVE_ORIGINATOR: u16 = 0x1030;
const MOVE_ORIGINATOR_ID: u16 = 0x1031;

/// What the next bytes of an association that is between messages are.
pub enum Next<'a> {
    /// Too few to tell.
    Unknown,
    /// Nothing for the lane.
    Other,
    /// A C-STORE-RQ that a data set follows.
    Store(Store<'a>),
}

/// A C-STORE-RQ: `read` bytes of the PDU were read, `left` of it are still to come.
pub struct Store<'a> {
    pub context_id: u8,
    pub read: usize,
    pub left: u32,
    pub command_set: &'a [u8],
    pub message_id: u16,
    pub sop_class: &'a [u8],
    pub sop_instance: &'a [u8],
}

/// Look at what follows a message.
pub fn next(data: &[u8], max_pdu: u32) -> Next<'_> {
    let Some(&kind) = data.first() else { return Next::Unknown };
    if kind != P_DATA_TF {
        return Next::Other;
    }
    if data.len() < 2 * HEADER {
        return Next::Unknown;
    }
    let (length, value) = (word(&data[2..]), word(&data[HEADER..]));
    let (context_id, control) = (data[HEADER + 4], data[HEADER + 5]);
    let whole = control & (COMMAND | LAST) == COMMAND | LAST;
    if length > max_pdu || length < 4 || value > length - 4 || !(2..=LONGEST).contains(&value) || !whole {
        return Next::Other;
    }
    let read = 2 * HEADER + value as usize - 2;
    if data.len() < read {
        return Next::Unknown;
    }
    let command_set = &data[2 * HEADER..read];
    match fields(command_set) {
        Some((message_id, sop_class, sop_instance)) => Next::Store(Store {
            context_id,
            read,
            left: length - 4 - value,
            command_set,
            message_id,
            sop_class,
            sop_instance,
        }),
        None => Next::Other,
    }
}

/// Return Message ID, Affected SOP Class and Instance UID of a usual C-STORE-RQ.
fn fields(mut rest: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (mut field, mut id, mut data_set, mut class, mut instance) = (None, None, None, None, None);
    while !rest.is_empty() {
        let (element, value, after) = element(rest)?;
        let seen = match element {
            GROUP_LENGTH | PRIORITY | MOVE_ORIGINATOR | MOVE_ORIGINATOR_ID => false,
            COMMAND_FIELD => field.replace(short(value)?).is_some(),
            MESSAGE_ID => id.replace(short(value)?).is_some(),
            DATA_SET_TYPE => data_set.replace(short(value)?).is_some(),
            SOP_CLASS => class.replace(uid(value)?).is_some(),
            SOP_INSTANCE => instance.replace(uid(value)?).is_some(),
            _ => return None,
        };
        if seen {
            return None;
        }
        rest = after;
    }
    if field? != C_STORE_RQ || data_set? == NO_DATA_SET {
        return None;
    }
    Some((id?, class?, instance?))
}

fn element(data: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (head, after) = data.split_at_checked(8)?;
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if head[..2] != [0, 0] || length > after.len() {
        return None;
    }
    let (value, after) = after.split_at(length);
    Some((u16::from_le_bytes([head[2], head[3]]), value, after))
}

fn short(value: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(value.try_into().ok()?))
}

/// Return a UID without its padding, if it is one (PS3.5 §9.1).
pub fn uid(value: &[u8]) -> Option<&[u8]> {
    let end = value.iter().rposition(|byte| !matches!(byte, 0 | b' '))? + 1;
    let uid = &value[..end];
    let plain = uid.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    (plain && uid.len() <= 64 && uid != b"." && uid != b"..").then_some(uid)
}

/// Append a P-DATA-TF with the C-STORE-RSP that says Success.
pub fn success(pdu: &mut Vec<u8>, context_id: u8, message_id: u16, sop_class: &[u8], sop_instance: &[u8]) {
    let begin = pdu.len();
    pdu.extend_from_slice(&[0; 2 * HEADER + 12]);
    put(pdu, SOP_CLASS, sop_class);
    put(pdu, COMMAND_FIELD, &C_STORE_RSP.to_le_bytes());
    put(pdu, RESPONDED_ID, &message_id.to_le_bytes());
    put(pdu, DATA_SET_TYPE, &NO_DATA_SET.to_le_bytes());
    put(pdu, STATUS, &SUCCESS.to_le_bytes());
    put(pdu, SOP_INSTANCE, sop_instance);
    let elements = (pdu.len() - begin - 2 * HEADER - 12) as u32;
    let head = &mut pdu[begin..];
    head[0] = P_DATA_TF;
    head[2..6].copy_from_slice(&(elements + 18).to_be_bytes());
    head[6..10].copy_from_slice(&(elements + 14).to_be_bytes());
    head[10..12].copy_from_slice(&[context_id, COMMAND | LAST]);
    head[16..20].copy_from_slice(&4u32.to_le_bytes());
    head[20..24].copy_from_slice(&elements.to_le_bytes());
}

fn put(command_set: &mut Vec<u8>, element: u16, value: &[u8]) {
    let padding = value.len() % 2;
    command_set.extend_from_slice(&[0, 0]);
    command_set.extend_from_slice(&element.to_le_bytes());
    command_set.extend_from_slice(&((value.len() + padding) as u32).to_le_bytes());
    command_set.extend_from_slice(value);
    command_set.extend_from_slice(&[0][..padding]);
}
