use super::messages::{CONTEXT_ID, CT, MAX_PDU, command_element, pdu, store_command, store_elements};
use crate::command::{Next, StoreRequest, next, success, uid};

fn store(data: &[u8]) -> StoreRequest<'_> {
    match next(data, MAX_PDU) {
        Next::Store(store) => store,
        Next::NeedMore => panic!("more is needed"),
        Next::Other => panic!("not a plain C-STORE-RQ"),
    }
}

fn of(elements: &[Vec<u8>]) -> Vec<u8> {
    pdu(&[(CONTEXT_ID, 3, &elements.concat())])
}

#[test]
fn a_plain_store_request_is_read() {
    let data = pdu(&[(CONTEXT_ID, 3, &store_command(7, "1.2.34"))]);
    let request = store(&data);
    assert_eq!((request.context_id, request.message_id, request.pdu_remaining), (CONTEXT_ID, 7, 0));
    assert_eq!((request.sop_class, request.sop_instance), (CT.as_bytes(), &b"1.2.34"[..]));
    assert_eq!((request.read, request.command_set), (data.len(), &data[12..]));
}

#[test]
fn what_follows_in_its_pdu_is_counted() {
    let data = pdu(&[(CONTEXT_ID, 3, &store_command(7, "1.2.34")), (CONTEXT_ID, 2, b"data set")]);
    let request = store(&data);
    assert_eq!(request.pdu_remaining as usize, 6 + b"data set".len());
    assert_eq!(request.read + request.pdu_remaining as usize, data.len());
}

#[test]
fn nothing_is_said_before_all_of_it_has_arrived() {
    let data = pdu(&[(CONTEXT_ID, 3, &store_command(7, "1.2.34"))]);
    assert!((0..data.len()).all(|size| matches!(next(&data[..size], MAX_PDU), Next::NeedMore)));
}

#[test]
fn what_is_not_plain_is_left_to_python() {
    let plain = store_elements(7, "1.2.34");
    let changed = |at: usize, element: Vec<u8>| {
        let mut elements = plain.clone();
        elements[at] = element;
        of(&elements)
    };
    let command_set = store_command(7, "1.2.34");
    let others = [
        ("a C-ECHO-RQ", changed(1, command_element(0x0100, &0x30u16.to_le_bytes()))),
        ("no data set", changed(4, command_element(0x0800, &0x0101u16.to_le_bytes()))),
        ("an unknown element", changed(3, command_element(0x0999, b"ab"))),
        ("an element of another group", changed(3, [&[8, 0, 0, 7, 2, 0, 0, 0][..], b"ab"].concat())),
        ("a message id of four bytes", changed(2, command_element(0x0110, &7u32.to_le_bytes()))),
        ("a UID that is none", changed(5, command_element(0x1000, b"1.2.x4"))),
        ("a UID twice", of(&[plain.clone(), vec![plain[5].clone()]].concat())),
        ("no instance", of(&plain[..5])),
        ("a length past the end", of(&[plain.concat(), vec![0, 0, 0, 7, 9, 0, 0, 0]])),
        ("half a command set", pdu(&[(CONTEXT_ID, 1, &command_set)])),
        ("a data set", pdu(&[(CONTEXT_ID, 2, &command_set)])),
        ("a long command set", pdu(&[(CONTEXT_ID, 3, &[command_set.clone(), vec![0; 1024]].concat())])),
        ("a release", vec![5, 0, 0, 0, 0, 4, 0, 0, 0, 0]),
        ("a PDU that is too long", [&[4, 0][..], &(MAX_PDU + 1).to_be_bytes()].concat()),
        ("a PDU without a value", vec![4, 0, 0, 0, 0, 5]),
        ("a value past its PDU", vec![4, 0, 0, 0, 0, 20, 0, 0, 0, 17, CONTEXT_ID, 3]),
    ];
    for (what, data) in others {
        assert!(matches!(next(&data, MAX_PDU), Next::Other), "{what}");
    }
}

#[test]
fn a_uid_loses_its_padding_and_is_no_path() {
    assert_eq!(uid(b"1.2.3\0"), Some(&b"1.2.3"[..]));
    assert_eq!(uid(b"1.2.3 "), Some(&b"1.2.3"[..]));
    for none in [&b""[..], b"\0\0", b".", b"..", b" 1.2", b"1.2/3", b"1.2\0.3", &[b'1'; 65]] {
        assert_eq!(uid(none), None);
    }
}

#[test]
fn success_answers_the_request() {
    let mut response = b"kept".to_vec();
    success(&mut response, CONTEXT_ID, 7, b"1.2", b"1.2.3");
    let elements = [
        command_element(0x0002, b"1.2\0"),
        command_element(0x0100, &0x8001u16.to_le_bytes()),
        command_element(0x0120, &7u16.to_le_bytes()),
        command_element(0x0800, &0x0101u16.to_le_bytes()),
        command_element(0x0900, &[0, 0]),
        command_element(0x1000, b"1.2.3\0"),
    ]
    .concat();
    let command_set = [command_element(0x0000, &(elements.len() as u32).to_le_bytes()), elements].concat();
    assert_eq!(response, [b"kept".to_vec(), pdu(&[(CONTEXT_ID, 3, &command_set)])].concat());
}
