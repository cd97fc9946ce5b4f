//! The four UIDs that identify an instance, from the first bytes of its data set (PS3.5 §7).
//!
//! `bucky.dicom.identity` reads the same. This reader gives up where it would need a special case: Python decides then.

use crate::command::uid;

/// A tag, group before element.
type Tag = u32;
const SOP_CLASS: Tag = 0x0008_0016;
const SOP_INSTANCE: Tag = 0x0008_0018;
const STUDY: Tag = 0x0020_000D;
const SERIES: Tag = 0x0020_000E;
const ITEM: Tag = 0xFFFE_E000;
const ITEM_END: Tag = 0xFFFE_E00D;
const SEQUENCE_END: Tag = 0xFFFE_E0DD;
const UNDEFINED: u32 = 0xFFFF_FFFF;
/// Sequences within sequences, and their items.
const MAX_DEPTH: usize = 64;

/// The UIDs, without their padding.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    pub sop_class: &'a [u8],
    pub sop_instance: &'a [u8],
    pub study: &'a [u8],
    pub series: &'a [u8],
}

/// What the first bytes of a data set say.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading<'a> {
    Found(Identity<'a>),
    /// They end before all four UIDs.
    NeedMore,
    /// They are unusual, or wrong.
    Unusual,
}

struct Header {
    tag: Tag,
    /// Whether the VR is UN.
    unknown: bool,
    length: u32,
    start: usize,
}

/// A sequence or item of undefined length that has not ended yet.
struct Level {
    sequence: bool,
    implicit: bool,
    /// Whether this is a sequence of VR UN among explicit VRs: its items should be in implicit VR, but not all are.
    unknown: bool,
}

/// Reads the identity out of a little-endian data set, with implicit or explicit VRs.
pub fn read(data: &[u8], implicit: bool) -> Reading<'_> {
    let mut found: [Option<&[u8]>; 4] = [None; 4];
    let mut levels: Vec<Level> = Vec::new();
    let mut at = 0;
    loop {
        let nested = levels.last().map(|level| (level.sequence, level.implicit, level.unknown));
        let header = match header(data, at, nested.map_or(implicit, |(_, implicit, _)| implicit)) {
            Ok(Some(header)) => header,
            Ok(None) => return Reading::NeedMore,
            Err(()) => return Reading::Unusual,
        };
        at = header.start;
        if let Some((in_sequence, in_implicit, in_unknown)) = nested {
            if header.tag == if in_sequence { SEQUENCE_END } else { ITEM_END } {
                levels.pop();
                continue;
            }
            if in_sequence && header.tag != ITEM {
                return Reading::Unusual;
            }
            if header.length == UNDEFINED {
                if in_unknown {
                    let Some(first) = data.get(at..at + 8) else { return Reading::NeedMore };
                    if first[4..6].iter().all(u8::is_ascii_uppercase) {
                        return Reading::Unusual;
                    }
                }
                let unknown = !in_sequence && !in_implicit && header.unknown;
                levels.push(Level { sequence: !in_sequence, implicit: in_implicit || unknown, unknown });
            }
        } else {
            if header.tag > SERIES {
                return Reading::Unusual;
            }
            if header.length == UNDEFINED {
                let unknown = !implicit && header.unknown;
                levels.push(Level { sequence: true, implicit: implicit || unknown, unknown });
            }
        }
        if levels.len() > MAX_DEPTH {
            return Reading::Unusual;
        }
        if header.length == UNDEFINED {
            continue;
        }
        let end = at + header.length as usize;
        let place = [SOP_CLASS, SOP_INSTANCE, STUDY, SERIES].iter().position(|tag| *tag == header.tag);
        if let (Some(place), None) = (place, nested) {
            let Some(value) = data.get(at..end) else { return Reading::NeedMore };
            let (Some(uid), None) = (uid(value), found[place]) else { return Reading::Unusual };
            found[place] = Some(uid);
            if let [Some(sop_class), Some(sop_instance), Some(study), Some(series)] = found {
                return Reading::Found(Identity { sop_class, sop_instance, study, series });
            }
        }
        at = end;
    }
}

/// Returns the header of the element at `at`, None if it is incomplete, or an error if it has no VR.
fn header(data: &[u8], at: usize, implicit: bool) -> Result<Option<Header>, ()> {
    let Some(head) = data.get(at..at + 8) else { return Ok(None) };
    let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let tag = Tag::from(short(0)) << 16 | Tag::from(short(2));
    let long = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if implicit {
        return Ok(Some(Header { tag, unknown: false, length: long, start: at + 8 }));
    }
    let vr = [head[4], head[5]];
    match &vr {
        b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FD" | b"FL" | b"IS" | b"LO" | b"LT" | b"PN"
        | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL" | b"US" => {
            Ok(Some(Header { tag, unknown: false, length: u32::from(short(6)), start: at + 8 }))
        }
        _ if tag >> 16 == 0xFFFE => Ok(Some(Header { tag, unknown: false, length: long, start: at + 8 })),
        _ if vr.iter().all(u8::is_ascii_uppercase) => Ok(data.get(at + 8..at + 12).map(|long| Header {
            tag,
            unknown: vr == *b"UN",
            length: u32::from_le_bytes([long[0], long[1], long[2], long[3]]),
            start: at + 12,
        })),
        _ => Err(()),
    }
}
