use sha2::{Digest, Sha256};

use super::world::{Folder, OWNER, SlotFile};
use crate::aio::Completion;
use crate::buffer::{BLOCK, BUFFER};
use crate::slot::{MAX_INSTANCE, SLOT, fits, header, remaining};
use crate::slots::{BROKEN, FREE, OWNED, Slots};

fn noise(size: usize) -> Vec<u8> {
    (0..size as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Waits for one sealed slot; returns its key and error.
fn completed(slots: &mut Slots) -> (u64, Option<i32>) {
    loop {
        if let Some(Completion { owner, error }) = slots.completed(true).pop() {
            return (owner, error);
        }
    }
}

#[test]
fn a_header_says_what_a_slot_holds() {
    let header = header(0x0102_0304_0506_0708, 1000);
    assert_eq!(&header[..8], b"BUCKYTR1");
    assert_eq!(header[8..16], 0x0102_0304_0506_0708u64.to_le_bytes());
    assert_eq!(header[16..24], 1000u64.to_le_bytes());
    assert_eq!(header[24..28], crc32fast::hash(&header[..24]).to_le_bytes());
    assert!(header[28..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_record_fits_with_its_header_and_footer() {
    assert!(fits(MAX_INSTANCE) && !fits(MAX_INSTANCE + 1));
    assert_eq!((remaining(0), remaining(MAX_INSTANCE), remaining(SLOT)), (MAX_INSTANCE as usize, 0, 0));
    assert!(MAX_INSTANCE + BLOCK as u64 + 4096 < SLOT);
}

#[test]
fn records_of_all_lengths_are_written_behind_their_headers() {
    let folder = Folder::new();
    let file = SlotFile::new(&folder.path, 1);
    let mut slots = Slots::open(&file.share(0, 1)).unwrap();
    for size in [0, 1, BLOCK, BUFFER - BLOCK - 12, BUFFER - BLOCK, BUFFER, 3 * BUFFER + 7, MAX_INSTANCE as usize - 6] {
        let data_set = noise(size);
        let mut slot = slots.create(b"prefix").unwrap();
        assert_eq!(file.states.get(0), OWNED + OWNER);
        for pieces in data_set.chunks(100_003) {
            slots.write(&mut slot, &[&pieces[..pieces.len() / 2], &pieces[pieces.len() / 2..]]).unwrap();
        }
        assert_eq!(slot.sha256(), <[u8; 32]>::from(Sha256::digest(&data_set)));
        let key = slots.seal(slot, b"footer", 77).unwrap();
        assert_eq!(completed(&mut slots), (key, None));
        let record = [b"prefix", &data_set[..], b"footer"].concat();
        let content = file.content(0);
        assert_eq!(content[..BLOCK], header(77, record.len() as u64));
        assert!(content[BLOCK..].starts_with(&record), "{size} bytes");
        file.states.set(0, FREE);
    }
}

#[test]
fn bytes_are_received_into_a_slots_own_memory() {
    let folder = Folder::new();
    let file = SlotFile::new(&folder.path, 1);
    let mut slots = Slots::open(&file.share(0, 1)).unwrap();
    let data_set = noise(MAX_INSTANCE as usize - 6);
    let mut slot = slots.create(b"prefix").unwrap();
    let mut at = 0;
    while at < data_set.len() {
        slots.prepare(&mut slot).unwrap();
        let spare = slot.spare().unwrap();
        let size = spare.len().min(data_set.len() - at).min(70_000);
        spare[..size].copy_from_slice(&data_set[at..at + size]);
        slot.filled(size);
        at += size;
    }
    assert_eq!(slot.spare().unwrap().len(), 0);
    assert_eq!(slot.sha256(), <[u8; 32]>::from(Sha256::digest(&data_set)));
    slots.seal(slot, b"footer", 77).unwrap();
    assert_eq!(completed(&mut slots).1, None);
    assert!(file.content(0)[BLOCK + 6..].starts_with(&data_set));
}

#[test]
fn each_receiver_takes_its_own_slots_while_some_are_free() {
    let folder = Folder::new();
    let file = SlotFile::new(&folder.path, 5);
    let mut slots = Slots::open(&file.share(1, 2)).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| slots.create(b"")).collect();
    assert_eq!(taken.iter().map(|slot| slot.index).collect::<Vec<_>>(), [1, 3]);
    taken.into_iter().for_each(|slot| slots.abandon(slot));
    assert!((0..5).all(|index| file.states.get(index) == FREE));
    assert!(slots.create(b"").is_some());
}

#[test]
fn a_slot_that_is_given_up_stays_empty_and_is_free_when_nothing_writes_to_it() {
    let folder = Folder::new();
    let file = SlotFile::new(&folder.path, 1);
    let mut slots = Slots::open(&file.share(0, 1)).unwrap();
    let mut slot = slots.create(b"prefix").unwrap();
    slots.write(&mut slot, &[&noise(2 * BUFFER)]).unwrap();
    slots.abandon(slot);
    while file.states.get(0) != FREE {
        assert!(slots.completed(true).is_empty());
    }
    assert!(file.content(0)[..BLOCK].iter().all(|byte| *byte == 0));
}

#[test]
fn an_instance_that_gets_too_long_is_moved_with_its_digest() {
    let folder = Folder::new();
    let file = SlotFile::new(&folder.path, 2);
    let mut slots = Slots::open(&file.share(0, 1)).unwrap();
    for size in [10, 3 * BUFFER + 500] {
        let data_set = noise(size);
        let mut other = slots.create(b"other").unwrap();
        slots.write(&mut other, &[&data_set]).unwrap();
        let other = slots.seal(other, b"", 1).unwrap();
        let mut slot = slots.create(b"prefix").unwrap();
        let index = slot.index;
        slots.write(&mut slot, &[&data_set]).unwrap();
        let mut copied = Vec::new();
        let (digest, done) = slots.move_out(slot, |bytes| {
            copied.extend_from_slice(bytes);
            Ok(())
        });
        done.unwrap();
        assert_eq!(copied, [b"prefix", &data_set[..]].concat());
        assert_eq!(digest.finalize(), Sha256::digest(&data_set));
        assert_eq!(file.states.get(index), FREE);
        // What completed meanwhile is not lost.
        assert_eq!(completed(&mut slots), (other, None));
        (0..2).for_each(|index| file.states.set(index, FREE));
    }
}

#[test]
fn a_slot_whose_write_failed_is_not_used_again() {
    let folder = Folder::new();
    let file = SlotFile::new(&folder.path, 1);
    let read_only = std::fs::File::open("/dev/null").unwrap();
    let share = {
        use std::os::fd::AsRawFd;
        crate::slots::SlotShare { file: read_only.as_raw_fd(), ..file.share(0, 1) }
    };
    let mut slots = Slots::open(&share).unwrap();
    let slot = slots.create(b"prefix").unwrap();
    match slots.seal(slot, b"footer", 1) {
        // The kernel refuses the write at once, so nothing was written, or when it is carried out.
        Err(_) => assert_eq!(file.states.get(0), FREE),
        Ok(key) => {
            assert!(matches!(completed(&mut slots), (owner, Some(_)) if owner == key));
            assert_eq!(file.states.get(0), BROKEN);
        }
    }
}
