use crate::clock::timestamp;
use crate::random::{Random, hex};
use crate::record::Record;

#[test]
fn a_footer_is_json_its_length_its_checksum_and_the_magic() {
    let record = Record {
        study: "1.2.3",
        series: "1.2.3.1",
        sop_instance: "1.2.34",
        sop_class: "1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax: "1.2.840.10008.1.2.1",
        sha256: "00ff",
        object_size: 1000,
        data_set_offset: 300,
        caller: "\"calling_aet\":\"CT\"",
        traceparent: "00-1-2-01",
    };
    let footer = record.footer(1_700_000_000_123_456_789);
    let (text, trailer) = footer.split_at(footer.len() - 16);
    assert_eq!(
        std::str::from_utf8(text).unwrap(),
        "{\"study_instance_uid\":\"1.2.3\",\"series_instance_uid\":\"1.2.3.1\",\"sop_instance_uid\":\"1.2.34\",\
         \"sop_class_uid\":\"1.2.840.10008.5.1.4.1.1.2\",\"transfer_syntax_uid\":\"1.2.840.10008.1.2.1\",\
         \"sha256\":\"00ff\",\"object_size\":1000,\"data_set_offset\":300,\"calling_aet\":\"CT\",\
         \"received_at\":\"2023-11-14T22:13:20.123456+00:00\",\"traceparent\":\"00-1-2-01\"}"
    );
    assert_eq!(trailer[..4], (text.len() as u32).to_le_bytes());
    assert_eq!(trailer[4..8], crc32fast::hash(text).to_le_bytes());
    assert_eq!(&trailer[8..], b"BUCKYSP1");
}

#[test]
fn times_are_in_utc_with_microseconds() {
    assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000+00:00");
    assert_eq!(timestamp(1_709_164_799_999_999_999), "2024-02-28T23:59:59.999999+00:00");
    assert_eq!(timestamp(1_709_164_800_000_000_000), "2024-02-29T00:00:00.000000+00:00");
}

#[test]
fn random_names_do_not_repeat() {
    let mut random = Random::new();
    let names: std::collections::HashSet<String> = (0..1000).map(|_| random.hex().unwrap()).collect();
    assert_eq!(names.len(), 1000);
    assert!(names.iter().all(|name| name.len() == 16));
    assert_eq!(hex(&[0, 0x0a, 0xff]), "000aff");
}
