use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::messages::{CONTEXT_ID, CT, EXPLICIT, MAX_PDU, data_set, pdu, store, store_command};
use super::world::{CommitWorker, Counters, Folder, SUBMITTED, SlotFile, TAKEN, spooler};
use crate::command::success;
use crate::commit::Commit;
use crate::connection::{Connection, Handback, Progress};
use crate::event_loop::EventLoop;
use crate::instance::{Caller, Context, Refusal};
use crate::slot::header;

const UID: &str = "1.2.34";

/// An event loop with one session, and all that is around it.
struct World {
    folder: Folder,
    slots: SlotFile,
    counters: Counters,
    worker: CommitWorker,
    event_loop: EventLoop,
    session: u64,
    peer: UnixStream,
    ours: UnixStream,
    uses_slots: bool,
}

impl World {
    fn new(slots: usize, bytes: u64) -> Self {
        let (folder, counters, worker) = (Folder::new(), Counters::new(), CommitWorker::new());
        let slot_file = SlotFile::new(&folder.path, slots);
        let spooler = spooler(&folder, &counters, bytes);
        let mut event_loop = EventLoop::open(spooler, Commit::open(worker.end()).unwrap(), MAX_PDU).unwrap();
        if slots > 0 {
            event_loop.use_slots(&slot_file.share(0, 1)).unwrap();
        }
        let (peer, ours) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        let caller = Caller {
            record_fields: "\"calling_aet\":\"CT\"".to_owned(),
            log_fields: "\"calling_aet\":\"CT\"".to_owned(),
            trace_id: "1".repeat(32),
            trace_flags: "01".to_owned(),
        };
        let context = Context {
            sop_class: CT.to_owned(),
            transfer_syntax: EXPLICIT.to_owned(),
            implicit: false,
            before: b"before".to_vec(),
            after: b"after".to_vec(),
        };
        let connection = Connection::new(ours.as_raw_fd(), Arc::new(caller), vec![(CONTEXT_ID, Arc::new(context))]);
        let session = event_loop.enter(connection).unwrap();
        let uses_slots = slots > 0;
        Self { folder, slots: slot_file, counters, worker, event_loop, session, peer, ours, uses_slots }
    }

    /// Serves what has arrived by now, with slots until their writes have completed.
    fn serve(&mut self) {
        let (_idle, other) = UnixStream::pair().unwrap();
        let (times, seconds) = if self.uses_slots { (2, 0.02) } else { (10, 0.0) };
        (0..times).for_each(|_| self.event_loop.serve(other.as_raw_fd(), Some(seconds)).unwrap());
    }

    fn say(&mut self, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            match self.peer.write(&data[at..]) {
                Ok(sent) => at += sent,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            self.serve();
        }
    }

    /// Lets the commit worker complete what was submitted.
    fn sync(&mut self, epoch: i64) {
        self.worker.complete(epoch);
        self.serve();
    }

    fn answers(&mut self) -> Vec<u8> {
        let mut answers = Vec::new();
        if let Err(error) = self.peer.read_to_end(&mut answers) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        answers
    }

    fn handback(&mut self) -> Handback {
        let mut handbacks = self.event_loop.notifications().handbacks;
        assert_eq!(handbacks.len(), 1);
        handbacks.remove(0)
    }

    fn phase(&self) -> Option<u8> {
        self.event_loop.progress(self.session).map(|Progress { phase, .. }| phase)
    }
}

fn succeeded(message_id: u16) -> Vec<u8> {
    let mut response = Vec::new();
    success(&mut response, CONTEXT_ID, message_id, CT.as_bytes(), UID.as_bytes());
    response
}

/// Returns the data set of a record.
fn stored(record: &[u8]) -> &[u8] {
    let start = record.windows(5).position(|bytes| bytes == b"after").unwrap() + 5;
    let trailer = &record[record.len() - 16..];
    let footer = u32::from_le_bytes(trailer[..4].try_into().unwrap()) as usize;
    assert_eq!(&trailer[8..], b"BUCKYSP1");
    &record[start..record.len() - 16 - footer]
}

#[test]
fn an_instance_is_answered_when_it_was_synced_and_not_before() {
    let mut world = World::new(0, 1 << 20);
    let data = data_set(UID, b"", 5000, false);
    world.say(&store(7, UID, &data, 900));
    assert_eq!((world.phase(), world.worker.words.get(SUBMITTED)), (Some(2), 1));
    assert!(world.answers().is_empty());
    world.sync(0);
    assert_eq!(world.answers(), succeeded(7));
    assert_eq!((world.phase(), world.event_loop.notifications().spooled), (Some(0), 1));
    let spooled = world.event_loop.take_spooled();
    assert_eq!(spooled.len(), 1);
    let files = world.folder.files();
    assert_eq!(stored(&files[0]), data);
    assert_eq!((spooled[0].taken, world.counters.words.get(TAKEN)), (files[0].len() as u64, files[0].len() as i64));
    assert!(spooled[0].name.ends_with(".dcm"));
}

#[test]
fn a_receive_can_bring_headers_and_nothing_of_the_data_set() {
    let data = data_set(UID, b"", 5000, false);
    let message = store(7, UID, &data, 900);
    let start = message.len() - data.len() - 12 * data.len().div_ceil(900);
    for slots in [0, 1] {
        let mut world = World::new(slots, 1 << 20);
        world.say(&message[..start]);
        for pdu in message[start..].chunks(912) {
            world.say(&pdu[..12]);
            world.say(&pdu[12..]);
        }
        if slots == 0 {
            world.sync(0);
        }
        assert_eq!((world.answers(), world.event_loop.take_spooled().len()), (succeeded(7), 1));
    }
}

#[test]
fn an_instance_that_fits_goes_to_a_slot() {
    let mut world = World::new(2, 1 << 24);
    for (message_id, pixels) in [(1, 100), (2, 900_000)] {
        let data = data_set(UID, b"", pixels, false);
        world.say(&store(message_id, UID, &data, 30_000));
        world.serve();
        assert_eq!(world.answers(), succeeded(message_id));
        let content = world.slots.content(message_id as usize - 1);
        let spooled = &world.event_loop.take_spooled()[0];
        assert!(spooled.name.ends_with(&format!("-{}.slot", message_id - 1)));
        let received_ns = spooled.name[..20].parse().unwrap();
        assert_eq!(content[..4096], header(received_ns, spooled.taken));
        assert_eq!(stored(&content[4096..][..spooled.taken as usize]), data);
    }
    assert!(world.folder.files().is_empty());
}

#[test]
fn one_that_gets_too_long_for_its_slot_is_a_file() {
    let mut world = World::new(1, 1 << 24);
    let data = data_set(UID, b"", 2_500_000, false);
    world.say(&store(1, UID, &data, 60_000));
    world.sync(0);
    assert_eq!(world.answers(), succeeded(1));
    assert_eq!(stored(&world.folder.files()[0]), data);
    assert!(world.slots.content(0)[..4096].iter().all(|byte| *byte == 0));
}

#[test]
fn messages_that_were_sent_ahead_are_answered_in_turn() {
    let mut world = World::new(0, 1 << 20);
    let data = data_set(UID, b"", 500, false);
    let message = |number| store(number, UID, &data, 900);
    world.say(&(1..4).flat_map(message).collect::<Vec<u8>>());
    for number in 1..4 {
        assert_eq!(world.worker.words.get(SUBMITTED), i64::from(number));
        world.sync(0);
        assert_eq!(world.answers(), succeeded(number));
    }
    assert_eq!(world.event_loop.take_spooled().len(), 3);
}

#[test]
fn what_is_no_plain_store_is_handed_back_from_its_first_byte() {
    let data = data_set(UID, b"", 500, false);
    let deflated = pdu(&[(9, 3, &store_command(1, UID)), (9, 2, b"\x95\xcc\xb1\x0d\xc2\x30")]);
    let other_class = store(1, UID, &data_set("1.2.35", b"", 10, false), 900);
    let release = vec![5, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    for message in [deflated, other_class, release, store(1, UID, &[0; 30], 900)] {
        let mut world = World::new(0, 1 << 20);
        world.say(&store(1, UID, &data, 900));
        world.sync(0);
        world.say(&message);
        let handback = world.handback();
        assert_eq!((handback.session, handback.stored, handback.unread), (world.session, 1, message));
        assert!(handback.unanswered.is_none() && handback.closed.is_none() && world.phase().is_none());
        assert_eq!(world.folder.files().len(), 1);
    }
}

#[test]
fn what_breaks_into_a_data_set_is_handed_back_with_its_request() {
    let mut world = World::new(1, 1 << 24);
    let message = store(7, UID, &data_set(UID, b"", 600_000, false), 30_000);
    let abort = [7, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    // Cut where a PDU ends.
    let end = message.len() - (12 + data_set(UID, b"", 0, false).len());
    world.say(&message[..end]);
    assert_eq!(world.phase(), Some(1));
    world.say(&abort);
    let handback = world.handback();
    let unanswered = handback.unanswered.unwrap();
    assert_eq!(handback.unread, abort);
    assert!(!unanswered.complete && unanswered.refusal.is_none() && unanswered.received == 600_000);
    assert_eq!(unanswered.request.command_set, store_command(7, UID));
    world.serve();
    assert_eq!((world.counters.words.get(TAKEN), world.slots.states.get(0)), (0, crate::slots::FREE));
}

#[test]
fn a_peer_that_closes_is_handed_back_as_closed() {
    let mut world = World::new(0, 1 << 20);
    let message = store(7, UID, &data_set(UID, b"", 5000, false), 900);
    world.say(&message[..3000]);
    world.peer.shutdown(Shutdown::Write).unwrap();
    world.serve();
    let handback = world.handback();
    assert_eq!((handback.closed, handback.unanswered.is_some()), (Some(0), true));
    assert_eq!((world.counters.words.get(TAKEN), world.folder.files().len()), (0, 0));
}

#[test]
fn an_instance_that_the_spool_has_no_room_for_is_refused_at_its_end() {
    let mut world = World::new(0, 4000);
    let message = store(7, UID, &data_set(UID, b"", 50_000, false), 30_000);
    world.say(&message[..40_000]);
    assert_eq!((world.phase(), world.counters.words.get(TAKEN)), (Some(1), 0));
    world.say(&message[40_000..]);
    let unanswered = world.handback().unanswered.unwrap();
    assert!(unanswered.complete);
    assert_eq!(unanswered.refusal, Some(Refusal::Full("The spool is full".to_owned())));
    assert_eq!(world.folder.files().len(), 0);
}

#[test]
fn an_instance_of_another_epoch_is_not_stored() {
    let mut world = World::new(0, 1 << 20);
    world.say(&store(7, UID, &data_set(UID, b"", 500, false), 900));
    world.sync(1);
    let handback = world.handback();
    assert_eq!(handback.unanswered.unwrap().refusal, Some(Refusal::NotSynced));
    assert!(world.answers().is_empty() && world.event_loop.take_spooled().is_empty());
    assert_eq!((world.counters.words.get(TAKEN), world.folder.files().len()), (0, 0));
}

#[test]
fn a_connection_can_be_taken_back_at_any_time() {
    let mut world = World::new(0, 1 << 20);
    let message = store(7, UID, &data_set(UID, b"", 5000, false), 900);
    world.say(&message[..100]);
    assert_eq!(world.phase(), Some(0));
    let handback = world.event_loop.leave(world.session).unwrap();
    assert_eq!((handback.unread, handback.unanswered.is_none()), (message[..100].to_vec(), true));
    assert!(world.event_loop.leave(world.session).is_none());
    world.peer.write_all(b"more").unwrap();
    world.serve();
    assert!(world.ours.read(&mut [0; 10]).is_ok());
}

#[test]
fn closing_waits_for_what_is_not_durable_yet() {
    let mut world = World::new(1, 1 << 20);
    for (number, pixels) in [(1, 500), (2, 600)] {
        // The second instance finds no slot free.
        world.say(&store(number, UID, &data_set(UID, b"", pixels, false), 900));
        world.worker.complete(0);
    }
    world.event_loop.close();
    assert_eq!(world.answers(), [succeeded(1), succeeded(2)].concat());
    assert_eq!(world.event_loop.take_spooled().len(), 2);
}
