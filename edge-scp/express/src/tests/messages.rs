//! What a sender says, encoded by hand.

pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub const MAX_PDU: u32 = 65536;
pub const CONTEXT_ID: u8 = 1;

/// Returns a P-DATA-TF with values of (context id, message control header, fragment).
pub fn pdu(values: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (context_id, control, fragment) in values {
        body.extend_from_slice(&(fragment.len() as u32 + 2).to_be_bytes());
        body.extend_from_slice(&[*context_id, *control]);
        body.extend_from_slice(fragment);
    }
    let mut pdu = vec![4, 0];
    pdu.extend_from_slice(&(body.len() as u32).to_be_bytes());
    pdu.extend_from_slice(&body);
    pdu
}

/// Returns a UID padded to even length.
pub fn padded(uid: &str) -> Vec<u8> {
    let mut padded = uid.as_bytes().to_vec();
    padded.resize(uid.len().next_multiple_of(2), 0);
    padded
}

/// Returns an element of a command set.
pub fn command_element(element: u16, value: &[u8]) -> Vec<u8> {
    let mut encoded = vec![0, 0];
    encoded.extend_from_slice(&element.to_le_bytes());
    encoded.extend_from_slice(&(value.len() as u32).to_le_bytes());
    encoded.extend_from_slice(value);
    encoded
}

/// Returns the elements of a C-STORE-RQ, each by itself.
pub fn store_elements(message_id: u16, instance: &str) -> Vec<Vec<u8>> {
    vec![
        command_element(0x0002, &padded(CT)),
        command_element(0x0100, &1u16.to_le_bytes()),
        command_element(0x0110, &message_id.to_le_bytes()),
        command_element(0x0700, &0u16.to_le_bytes()),
        command_element(0x0800, &1u16.to_le_bytes()),
        command_element(0x1000, &padded(instance)),
    ]
}

/// Returns the command set of a C-STORE-RQ.
pub fn store_command(message_id: u16, instance: &str) -> Vec<u8> {
    let elements = store_elements(message_id, instance).concat();
    [command_element(0x0000, &(elements.len() as u32).to_le_bytes()), elements].concat()
}

/// Returns an element of a data set; with explicit VRs, those of four-byte lengths are the ones used here.
pub fn element(tag: u32, vr: &[u8; 2], value: &[u8], implicit: bool) -> Vec<u8> {
    let mut encoded = ((tag >> 16) as u16).to_le_bytes().to_vec();
    encoded.extend_from_slice(&(tag as u16).to_le_bytes());
    if implicit {
        encoded.extend_from_slice(&(value.len() as u32).to_le_bytes());
    } else if matches!(vr, b"SQ" | b"UN" | b"OB") {
        encoded.extend_from_slice(vr);
        encoded.extend_from_slice(&[0, 0]);
        encoded.extend_from_slice(&(value.len() as u32).to_le_bytes());
    } else {
        encoded.extend_from_slice(vr);
        encoded.extend_from_slice(&(value.len() as u16).to_le_bytes());
    }
    encoded.extend_from_slice(value);
    encoded
}

/// Returns a data set with its four UIDs and some pixels; `before` goes between the first two and the others.
pub fn data_set(instance: &str, before: &[u8], pixels: usize, implicit: bool) -> Vec<u8> {
    let pixels: Vec<u8> = (0..pixels).map(|at| (at % 251) as u8).collect();
    [
        element(0x0008_0016, b"UI", &padded(CT), implicit),
        element(0x0008_0018, b"UI", &padded(instance), implicit),
        before.to_vec(),
        element(0x0020_000D, b"UI", &padded("1.2.3"), implicit),
        element(0x0020_000E, b"UI", &padded("1.2.3.1"), implicit),
        element(0x7FE0_0010, b"OB", &pixels, implicit),
    ]
    .concat()
}

/// Returns a C-STORE-RQ and its data set, in fragments of a size.
pub fn store(message_id: u16, instance: &str, data_set: &[u8], fragment: usize) -> Vec<u8> {
    let mut message = pdu(&[(CONTEXT_ID, 3, &store_command(message_id, instance))]);
    let mut fragments = data_set.chunks(fragment).peekable();
    while let Some(fragment) = fragments.next() {
        let control = if fragments.peek().is_none() { 2 } else { 0 };
        message.extend_from_slice(&pdu(&[(CONTEXT_ID, control, fragment)]));
    }
    message
}
