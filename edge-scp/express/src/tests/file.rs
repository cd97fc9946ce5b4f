use sha2::{Digest, Sha256};

use super::world::Folder;
use crate::file::SpoolFile;

#[test]
fn a_file_is_there_when_it_is_sealed_and_not_before() {
    let folder = Folder::new();
    let mut file = SpoolFile::create(folder.ready(), b"header".to_vec()).unwrap();
    assert_eq!(file.data_set_offset, 6);
    file.write(&[b"some ", b"pieces "]).unwrap();
    assert_eq!(file.sha256(&[b"and more"]), <[u8; 32]>::from(Sha256::digest(b"some pieces and more")));
    assert!(folder.files().is_empty());
    file.seal(folder.ready(), &[b"and more"], b" footer", "one.dcm").unwrap();
    assert_eq!(folder.files(), [b"headersome pieces and more footer"]);
}

#[test]
fn a_file_that_is_not_sealed_leaves_nothing() {
    let folder = Folder::new();
    SpoolFile::create(folder.ready(), b"header".to_vec()).unwrap().write(&[b"bytes"]).unwrap();
    assert!(folder.files().is_empty());
}

#[test]
fn a_name_is_not_given_twice_and_can_be_removed() {
    let folder = Folder::new();
    let create = || SpoolFile::create(folder.ready(), Vec::new()).unwrap();
    create().seal(folder.ready(), &[b"first"], b"", "one.dcm").unwrap();
    let error = create().seal(folder.ready(), &[b"second"], b"", "one.dcm").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    assert_eq!(folder.files(), [b"first"]);
    folder.ready().unlink("one.dcm");
    assert!(folder.files().is_empty());
}

#[test]
fn many_pieces_and_many_bytes_are_written_in_order() {
    let folder = Folder::new();
    let pieces: Vec<Vec<u8>> = (0..3000u32).map(|number| number.to_le_bytes().repeat(100)).collect();
    let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let mut file = SpoolFile::create(folder.ready(), Vec::new()).unwrap();
    file.write(&slices).unwrap();
    assert_eq!(file.sha256(&[]), <[u8; 32]>::from(Sha256::digest(pieces.concat())));
    file.seal(folder.ready(), &[], b"footer", "one.dcm").unwrap();
    assert_eq!(folder.files(), [[pieces.concat(), b"footer".to_vec()].concat()]);
}

#[test]
fn nothing_is_written_where_there_is_nothing() {
    let folder = Folder::new();
    let mut file = SpoolFile::create(folder.ready(), b"header".to_vec()).unwrap();
    for _ in 0..3 {
        file.write(&[]).unwrap();
        file.write(&[b"", b"bytes", b""]).unwrap();
    }
    file.seal(folder.ready(), &[], b" footer", "one.dcm").unwrap();
    assert_eq!(folder.files(), [b"headerbytesbytesbytes footer"]);
}
