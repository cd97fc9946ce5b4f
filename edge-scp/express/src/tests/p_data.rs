use super::messages::{CONTEXT_ID, MAX_PDU, pdu};
use crate::p_data::{PDataReader, Stop};

/// Reads data in chunks; returns the data set, how much was read, and why reading stopped.
fn read(reader: &mut PDataReader, data: &[u8], chunk: usize) -> (Vec<u8>, usize, Stop) {
    let (mut content, mut at) = (Vec::new(), 0);
    for part in data.chunks(chunk) {
        let mut pieces = Vec::new();
        let (read, stop) = reader.read(part, &mut pieces);
        content.extend_from_slice(&pieces.concat());
        at += read;
        if stop != Stop::NeedMore {
            return (content, at, stop);
        }
        assert_eq!(read, part.len());
    }
    (content, at, Stop::NeedMore)
}

fn reader() -> PDataReader {
    PDataReader::new(CONTEXT_ID, MAX_PDU, 0)
}

#[test]
fn a_data_set_is_the_same_however_it_is_cut() {
    let data = [
        pdu(&[(CONTEXT_ID, 0, b"in one "), (CONTEXT_ID, 0, b""), (CONTEXT_ID, 0, b"PDU, ")]),
        pdu(&[(CONTEXT_ID, 0, b"in another, ")]),
        pdu(&[(CONTEXT_ID, 2, b"and the last")]),
        b"more".to_vec(),
    ]
    .concat();
    for chunk in 1..=data.len() {
        let (content, at, stop) = read(&mut reader(), &data, chunk);
        assert_eq!(content, b"in one PDU, in another, and the last");
        assert_eq!((stop, &data[at..]), (Stop::Complete, &b"more"[..]), "in chunks of {chunk}");
    }
}

#[test]
fn a_data_set_can_begin_in_the_pdu_of_its_command_set() {
    let whole = pdu(&[(CONTEXT_ID, 2, b"data set")]);
    let mut reader = PDataReader::new(CONTEXT_ID, MAX_PDU, whole.len() as u32 - 6);
    assert_eq!(read(&mut reader, &whole[6..], 3), (b"data set".to_vec(), whole.len() - 6, Stop::Complete));
    assert!(reader.unused().is_empty());
}

#[test]
fn what_does_not_continue_it_is_given_back_as_a_pdu() {
    let begun = pdu(&[(CONTEXT_ID, 0, b"begun")]);
    let others = [
        pdu(&[(3, 0, b"another context")]),
        pdu(&[(CONTEXT_ID, 1, b"a command set")]),
        vec![7, 0, 0, 0, 0, 4, 0, 0, 0, 0],
        [&[4, 0][..], &(MAX_PDU + 1).to_be_bytes(), &[0; 6]].concat(),
        vec![4, 0, 0, 0, 0, 5, 0, 0, 0, 1, 1, 0],
        vec![4, 0, 0, 0, 0, 7, 0, 0, 0, 1, CONTEXT_ID, 0, 0],
        vec![4, 0, 0, 0, 0, 9, 0, 0, 0, 6, CONTEXT_ID, 0, 0, 0, 0],
    ];
    for other in others {
        for chunk in 1..=other.len() {
            let mut reader = reader();
            assert_eq!(read(&mut reader, &begun, begun.len()).2, Stop::NeedMore);
            let (content, at, stop) = read(&mut reader, &other, chunk);
            assert_eq!((content.len(), stop), (0, Stop::Foreign));
            assert_eq!([reader.unused(), other[at..].to_vec()].concat(), other);
        }
    }
}

#[test]
fn a_foreign_value_becomes_a_pdu_of_its_own() {
    let data = pdu(&[(CONTEXT_ID, 0, b"begun"), (3, 2, b"foreign")]);
    let mut reader = reader();
    let (content, at, stop) = read(&mut reader, &data, data.len());
    assert_eq!((content, stop), (b"begun".to_vec(), Stop::Foreign));
    assert_eq!([reader.unused(), data[at..].to_vec()].concat(), pdu(&[(3, 2, b"foreign")]));
}

#[test]
fn what_is_left_of_the_last_pdu_becomes_a_pdu() {
    let data = pdu(&[(CONTEXT_ID, 2, b"data set"), (CONTEXT_ID, 3, b"next")]);
    let mut reader = reader();
    let (_, at, stop) = read(&mut reader, &data, data.len());
    assert_eq!(stop, Stop::Complete);
    assert_eq!([reader.unused(), data[at..].to_vec()].concat(), pdu(&[(CONTEXT_ID, 3, b"next")]));
}

#[test]
fn bytes_received_elsewhere_are_skipped() {
    let data = [pdu(&[(CONTEXT_ID, 0, &[1; 100])]), pdu(&[(CONTEXT_ID, 2, &[2; 50])])].concat();
    let mut reader = reader();
    assert_eq!(read(&mut reader, &data[..32], 32).0, [1; 20]);
    assert_eq!(reader.expected(), (80, 12));
    reader.skip(80);
    assert!(!reader.clone().continues(&data[112..124], 51));
    assert!(reader.continues(&data[112..124], 50));
    assert_eq!(reader.expected(), (50, 0));
    reader.skip(50);
    assert_eq!(read(&mut reader, b"more", 4), (Vec::new(), 0, Stop::Complete));
}
