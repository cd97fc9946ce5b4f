//! The event loop of the fast path: it owns everything else, and gives each connection its turn.
//!
//! Python's event loop calls `serve` instead of waiting by itself, so a receive costs none of its turns. `serve` returns
//! as soon as Python has something to do: another descriptor is readable, a timer is due, a connection was handed back
//! or an instance was stored.

use std::collections::{HashMap, VecDeque};
use std::io::Result;
use std::mem;
use std::os::fd::RawFd;

use crate::clock;
use crate::commit::{Commit, Outcome};
use crate::connection::{Connection, Handback, Progress, Unanswered};
use crate::epoll::{ARRIVALS, Epoll, READABLE};
use crate::eventfd::EventFd;
use crate::instance::{SealedInstance, SpooledInstance};
use crate::intake::Turn;
use crate::slots::SlotShare;
use crate::spooler::Spooler;

pub const RECEIVE_BUFFER: usize = 256 * 1024;
/// Connections that have their turns before the event loop looks at anything else.
const TURNS: usize = 8;
/// The commit worker answers at once, or is gone and its successor does.
const LAST_ANSWER_MILLISECONDS: i32 = 10_000;
/// Tokens of what is no connection: files and slots that became durable, and the descriptor that Python waits for.
const FILES: u64 = u64::MAX;
const SLOTS: u64 = u64::MAX - 1;
const OTHER: u64 = u64::MAX - 2;

/// What Python has not been told of yet: connections, and how many instances it can take.
pub struct Notifications {
    pub handbacks: Vec<Handback>,
    pub spooled: usize,
}

pub struct EventLoop {
    epoll: Epoll,
    spooler: Spooler,
    commit: Commit,
    connections: HashMap<u64, Connection>,
    last_session: u64,
    /// Sessions that have work, in the order of their turns.
    due: VecDeque<u64>,
    max_pdu: u32,
    buffer: Vec<u8>,
    response: Vec<u8>,
    /// Readable when there are notifications.
    notify: EventFd,
    handbacks: Vec<Handback>,
    spooled: Vec<SpooledInstance>,
    /// Whether Python knows that it can take `spooled`.
    spooled_notified: bool,
    other: Option<RawFd>,
}

impl EventLoop {
    pub fn open(spooler: Spooler, commit: Commit, max_pdu: u32) -> Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(commit.descriptor(), READABLE, FILES)?;
        Ok(Self {
            epoll,
            spooler,
            commit,
            connections: HashMap::new(),
            last_session: 0,
            due: VecDeque::new(),
            max_pdu,
            buffer: vec![0; RECEIVE_BUFFER],
            response: Vec::new(),
            notify: EventFd::new()?,
            handbacks: Vec::new(),
            spooled: Vec::new(),
            spooled_notified: false,
            other: None,
        })
    }

    /// Stores instances in slots from here on.
    pub fn use_slots(&mut self, share: &SlotShare) -> Result<()> {
        let descriptor = self.spooler.use_slots(share)?;
        self.epoll.add(descriptor, READABLE, SLOTS)
    }

    /// Returns the descriptor that is readable when there are notifications.
    pub fn descriptor(&self) -> RawFd {
        self.notify.descriptor()
    }

    /// Takes what Python has not been told of.
    pub fn notifications(&mut self) -> Notifications {
        self.notify.clear();
        self.spooled_notified = !self.spooled.is_empty();
        Notifications { handbacks: mem::take(&mut self.handbacks), spooled: self.spooled.len() }
    }

    /// Takes the instances that were stored since the last call.
    pub fn take_spooled(&mut self) -> Vec<SpooledInstance> {
        self.spooled_notified = false;
        mem::take(&mut self.spooled)
    }

    /// Serves a connection from here on; returns the number of its session.
    pub fn enter(&mut self, mut connection: Connection) -> Result<u64> {
        self.last_session += 1;
        connection.session = self.last_session;
        self.epoll.add(connection.descriptor, ARRIVALS, connection.session)?;
        self.connections.insert(connection.session, connection);
        Ok(self.last_session)
    }

    /// Hands a connection back, wherever it stands; None if it has been already.
    pub fn leave(&mut self, session: u64) -> Option<Handback> {
        self.hand_over(session, Handback::default())
    }

    pub fn progress(&self, session: u64) -> Option<Progress> {
        self.connections.get(&session).map(Connection::progress)
    }

    /// Serves connections until `other` is readable, the time is over (None: never), or there are notifications.
    pub fn serve(&mut self, other: RawFd, seconds: Option<f64>) -> Result<()> {
        if self.other != Some(other) {
            self.epoll.add(other, READABLE, OTHER)?;
            self.other = Some(other);
        }
        let until = seconds.map(|seconds| clock::monotonic() + seconds);
        loop {
            let remaining = until.map(|until| (until - clock::monotonic()).max(0.0));
            let others_turn = self.wait(if self.due.is_empty() { remaining } else { Some(0.0) })?;
            for _ in 0..self.due.len().min(TURNS) {
                self.due.pop_front().into_iter().for_each(|session| self.turn(session));
            }
            self.commit.flush();
            if self.has_notifications() {
                self.notify.notify();
            }
            if others_turn || self.has_notifications() || remaining == Some(0.0) {
                return Ok(());
            }
        }
    }

    /// Waits for what is not durable yet, so that it is answered.
    pub fn close(&mut self) {
        self.commit.flush();
        while self.commit.has_slots() {
            let outcomes = self.commit.completed_slots(&mut self.spooler, true);
            self.settle(outcomes);
        }
        while self.commit.wait_for_files(LAST_ANSWER_MILLISECONDS) {
            let outcomes = self.commit.completed_files();
            self.settle(outcomes);
        }
    }

    fn has_notifications(&self) -> bool {
        !self.handbacks.is_empty() || (!self.spooled_notified && !self.spooled.is_empty())
    }

    /// Takes events in; returns whether the other descriptor is readable.
    fn wait(&mut self, seconds: Option<f64>) -> Result<bool> {
        let mut others_turn = false;
        for ready in self.epoll.wait(seconds)? {
            match ready.token {
                FILES => {
                    let outcomes = self.commit.completed_files();
                    self.settle(outcomes);
                }
                SLOTS => {
                    let outcomes = self.commit.completed_slots(&mut self.spooler, false);
                    self.settle(outcomes);
                }
                OTHER => others_turn = true,
                session => {
                    if let Some(connection) = self.connections.get_mut(&session) {
                        connection.readable = true;
                        connection.peer_closed |= ready.closed;
                        enqueue(&mut self.due, connection);
                    }
                }
            }
        }
        Ok(others_turn)
    }

    fn turn(&mut self, session: u64) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        connection.queued = false;
        let (spooler, queue, max_pdu) = (&mut self.spooler, self.commit.queue(), self.max_pdu);
        let mut turn = Turn { connection, spooler, queue, max_pdu };
        match turn.serve(&mut self.buffer) {
            Ok(sealed) => {
                enqueue(&mut self.due, connection);
                sealed.into_iter().for_each(|instance| self.commit.add(instance));
            }
            Err(handback) => self.hand_back(session, *handback),
        }
    }

    fn settle(&mut self, outcomes: Vec<Outcome>) {
        for Outcome { instance, refusal } in outcomes {
            match refusal {
                None => self.durable(instance),
                Some(refusal) => {
                    self.spooler.take_out(&instance.spooled);
                    let SealedInstance { session, request, spooled, .. } = instance;
                    self.hand_back(session, *Handback::refused(request, spooled.data_set_size, refusal));
                }
            }
        }
    }

    /// Answers an instance that is durable.
    fn durable(&mut self, instance: SealedInstance) {
        let SealedInstance { session, request, completed_at, mut spooled, .. } = instance;
        spooled.seconds = clock::monotonic() - completed_at;
        if let Some(connection) = self.connections.get_mut(&session) {
            match connection.respond(&request, &spooled, &mut self.response) {
                Ok(()) => enqueue(&mut self.due, connection),
                Err(handback) => self.hand_back(session, *handback),
            }
        }
        self.spooled.push(spooled);
    }

    /// Hands a connection back, of which Python is notified.
    fn hand_back(&mut self, session: u64, handback: Handback) {
        let handback = self.hand_over(session, handback);
        self.handbacks.extend(handback);
    }

    fn hand_over(&mut self, session: u64, mut handback: Handback) -> Option<Handback> {
        let connection = self.connections.remove(&session)?;
        self.epoll.remove(connection.descriptor);
        if let Some(instance) = handback.complete(connection) {
            let refusal = instance.storage.map(|storage| self.spooler.give_up(storage)).err();
            let (request, received) = (instance.request, instance.size);
            handback.unanswered = Some(Unanswered { request, complete: false, received, refusal });
        }
        Some(handback)
    }
}

/// Gives a connection a turn if it has work.
fn enqueue(due: &mut VecDeque<u64>, connection: &mut Connection) {
    if !connection.queued && connection.has_work() {
        connection.queued = true;
        due.push_back(connection.session);
    }
}
