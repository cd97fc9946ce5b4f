use super::messages::{CT, data_set, element, padded};
use crate::identity::{Identity, Reading, read};

const ITEM: &[u8] = &[0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF];
const ITEM_END: &[u8] = &[0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0];
const SEQUENCE_END: &[u8] = &[0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];
const UNDEFINED_SEQUENCE: &[u8] = &[0x08, 0x00, 0x15, 0x11, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];

const USUAL: Reading<'static> =
    Reading::Found(Identity { sop_class: CT.as_bytes(), sop_instance: b"1.2.34", study: b"1.2.3", series: b"1.2.3.1" });

#[test]
fn four_uids_are_found_with_either_kind_of_vr() {
    assert_eq!(read(&data_set("1.2.34", b"", 10, false), false), USUAL);
    assert_eq!(read(&data_set("1.2.34", b"", 10, true), true), USUAL);
}

#[test]
fn uids_within_sequences_are_of_others() {
    let other = element(0x0020_000D, b"UI", &padded("9.9.9"), false);
    let sequence = [UNDEFINED_SEQUENCE, ITEM, &other, ITEM_END, SEQUENCE_END].concat();
    assert_eq!(read(&data_set("1.2.34", &sequence, 10, false), false), USUAL);
    let nested = [UNDEFINED_SEQUENCE, ITEM, &sequence, ITEM_END, SEQUENCE_END].concat();
    assert_eq!(read(&data_set("1.2.34", &nested, 10, false), false), USUAL);
    let defined = element(0x0008_1115, b"SQ", &[ITEM, &other, ITEM_END].concat(), false);
    assert_eq!(read(&data_set("1.2.34", &defined, 10, false), false), USUAL);
}

#[test]
fn more_is_needed_until_the_last_uid_has_arrived() {
    let data = data_set("1.2.34", b"", 0, false);
    let end = data.len() - 12;
    assert!((0..end).all(|size| read(&data[..size], false) == Reading::NeedMore));
    assert_eq!(read(&data[..end], false), USUAL);
}

#[test]
fn what_is_unusual_is_left_to_python() {
    let twice = element(0x0008_0018, b"UI", &padded("1.2.35"), false);
    let no_vr = [&[0x09, 0, 1, 0x10, 4, 0, 0, 0][..], b"ABCD"].concat();
    let too_late = element(0x0020_0010, b"SH", b"id", false);
    let deep = UNDEFINED_SEQUENCE.iter().chain(ITEM).copied().collect::<Vec<u8>>().repeat(40);
    let unknown_items = [
        &[0x09, 0, 1, 0x10, b'U', b'N', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF][..],
        ITEM,
        &[0x09, 0, 2, 0x10, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF],
    ]
    .concat();
    let no_item = [UNDEFINED_SEQUENCE, &twice].concat();
    for (what, before) in [
        ("a UID twice", twice.clone()),
        ("no VR", no_vr),
        ("sequences too deep", deep),
        ("explicit VRs within UN", unknown_items),
        ("a sequence without items", no_item),
    ] {
        assert_eq!(read(&data_set("1.2.34", &before, 10, false), false), Reading::Unusual, "{what}");
    }
    assert_eq!(read(&data_set(" 1.2.34", b"", 10, false), false), Reading::Unusual);
    assert_eq!(read(&[element(0x0008_0016, b"UI", &padded(CT), false), too_late].concat(), false), Reading::Unusual);
}

#[test]
fn a_deflated_data_set_is_none() {
    // As zlib deflates a data set that begins with these UIDs: no tag, no VR.
    let deflated = b"\x95\xcc\xb1\x0d\xc20\x0c\x05\xd0\x8b\x93\xa2\xa1\xa0a\x04\x16\x08\xb6\x13\x12\xca\xd0\xb1";
    assert!(!matches!(read(deflated, false), Reading::Found(_)));
    assert!(!matches!(read(deflated, true), Reading::Found(_)));
}
