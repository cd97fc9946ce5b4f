//! Command sets: the plain C-STORE-RQ that nearly every sender sends, and the C-STORE-RSP that says Success (PS3.7
//! §6.3, §9.3.1).

use crate::p_data::{BOTH_HEADERS, COMMAND, HEADER, LAST, P_DATA_TF, length_at};

const C_STORE_RQ: u16 = 0x0001;
const C_STORE_RSP: u16 = 0x8001;
const NO_DATA_SET: u16 = 0x0101;
const SUCCESS: u16 = 0x0000;
/// No plain C-STORE-RQ has a longer command set.
const MAX_VALUE: u32 = 1024;
/// Command Group Length, an element that goes before all others.
const GROUP_LENGTH_ELEMENT: usize = 12;

const GROUP_LENGTH: u16 = 0x0000;
const SOP_CLASS: u16 = 0x0002;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
const PRIORITY: u16 = 0x0700;
const DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const SOP_INSTANCE: u16 = 0x1000;
const MOVE_ORIGINATOR: u16 = 0x1030;
const MOVE_ORIGINATOR_ID: u16 = 0x1031;

/// What an association sends between two messages.
pub enum Next<'a> {
    /// There are too few bytes to tell.
    NeedMore,
    /// It is nothing that the fast path serves.
    Other,
    /// It is a C-STORE-RQ, and a data set follows.
    Store(StoreRequest<'a>),
}

/// A C-STORE-RQ: `read` bytes were read, after which `pdu_remaining` bytes of the same PDU follow.
pub struct StoreRequest<'a> {
    pub context_id: u8,
    pub read: usize,
    pub pdu_remaining: u32,
    pub command_set: &'a [u8],
    pub message_id: u16,
    pub sop_class: &'a [u8],
    pub sop_instance: &'a [u8],
}

/// Reads the first bytes after a message.
pub fn next(data: &[u8], max_pdu: u32) -> Next<'_> {
    let Some(&kind) = data.first() else { return Next::NeedMore };
    if kind != P_DATA_TF {
        return Next::Other;
    }
    if data.len() < HEADER {
        return Next::NeedMore;
    }
    let length = length_at(&data[2..]);
    if !(HEADER as u32..=max_pdu).contains(&length) {
        return Next::Other;
    }
    if data.len() < BOTH_HEADERS {
        return Next::NeedMore;
    }
    let value = length_at(&data[HEADER..]);
    let (context_id, control) = (data[HEADER + 4], data[HEADER + 5]);
    let whole = control & (COMMAND | LAST) == COMMAND | LAST;
    if value > length - 4 || !(2..=MAX_VALUE).contains(&value) || !whole {
        return Next::Other;
    }
    let read = BOTH_HEADERS + value as usize - 2;
    if data.len() < read {
        return Next::NeedMore;
    }
    let command_set = &data[BOTH_HEADERS..read];
    match fields(command_set) {
        Some((message_id, sop_class, sop_instance)) => Next::Store(StoreRequest {
            context_id,
            read,
            pdu_remaining: length - 4 - value,
            command_set,
            message_id,
            sop_class,
            sop_instance,
        }),
        None => Next::Other,
    }
}

/// Returns the Message ID, Affected SOP Class UID and Affected SOP Instance UID of a plain C-STORE-RQ.
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

/// Returns a UID without its padding, if it is one that can be a part of a path (PS3.5 §9.1).
pub fn uid(value: &[u8]) -> Option<&[u8]> {
    let end = value.iter().rposition(|byte| !matches!(byte, 0 | b' '))? + 1;
    let uid = &value[..end];
    let plain = uid.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    (plain && uid.len() <= 64 && uid != b"." && uid != b"..").then_some(uid)
}

/// Appends a P-DATA-TF with the C-STORE-RSP that says Success.
pub fn success(pdu: &mut Vec<u8>, context_id: u8, message_id: u16, sop_class: &[u8], sop_instance: &[u8]) {
    let start = pdu.len();
    pdu.extend_from_slice(&[0; BOTH_HEADERS + GROUP_LENGTH_ELEMENT]);
    put(pdu, SOP_CLASS, sop_class);
    put(pdu, COMMAND_FIELD, &C_STORE_RSP.to_le_bytes());
    put(pdu, MESSAGE_ID_RESPONDED_TO, &message_id.to_le_bytes());
    put(pdu, DATA_SET_TYPE, &NO_DATA_SET.to_le_bytes());
    put(pdu, STATUS, &SUCCESS.to_le_bytes());
    put(pdu, SOP_INSTANCE, sop_instance);
    let elements = (pdu.len() - start - BOTH_HEADERS - GROUP_LENGTH_ELEMENT) as u32;
    let head = &mut pdu[start..];
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
