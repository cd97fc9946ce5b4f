//! The lane: takes what connections bring, one receive after the other, and answers when it is durable.
//!
//! It serves what nearly all traffic is: C-STORE-RQ, data set, Success, again. Before it is sure of an instance
//! it has changed nothing, so whatever is not usual leaves it as it came, for Python to serve. After, only three
//! things can happen: the instance is kept, its disk refuses it, or the peer breaks off.

use std::collections::{HashMap, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::connection::{Connection, Kept, Left, Pending, Phase, Refusal, Request};
use crate::file::Folder;
use crate::landing::Landed;
use crate::room::Room;
use crate::shared::{Bell, Board, checked};
use crate::socket;
use crate::trays::{Care, Trays};

pub const RECEIVED_AT_ONCE: usize = 256 * 1024;
/// Of a message, so much tells what it is; the rest is received where it stays.
const FIRST_RECEIVED: usize = 32 * 1024;
const EVENTS: usize = 64;
/// So many connections have their turns before the committer and others have theirs.
const TURNS: usize = 8;
/// Of the committer's bell, among connections.
const BELL: u64 = u64::MAX;
/// Of the descriptor that others wait for.
const OTHER: u64 = u64::MAX - 1;
/// Of the bell for trays that were written.
const TRAYS: u64 = u64::MAX - 2;

pub struct Lane {
    pub(crate) folder: Folder,
    pub(crate) room: Room,
    pub(crate) board: Option<Board>,
    pub(crate) asked: i64,
    pub(crate) waiting: VecDeque<Pending>,
    pub(crate) trays: Option<Trays>,
    pub(crate) sealing: HashMap<u64, Pending>,
    pub(crate) kept: Vec<Kept>,
    pub(crate) left: Vec<Left>,
    pub(crate) connections: HashMap<u64, Connection>,
    pub(crate) random: crate::record::Random,
    pub(crate) response: Vec<u8>,
    epoll: OwnedFd,
    news: Bell,
    kept_known: usize,
    other: Option<RawFd>,
    pub(crate) max_pdu: u32,
    last_token: u64,
    due: VecDeque<u64>,
    buffer: Vec<u8>,
}

impl Lane {
    pub fn open(folder: Folder, room: Room, board: Option<Board>, max_pdu: u32) -> Result<Self> {
        // SAFETY: a plain system call, whose descriptor is owned from here on.
        let epoll = unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        if let Some(board) = &board {
            socket::watch(&epoll, board.answering.descriptor(), libc::EPOLLIN, BELL)?;
        }
        Ok(Self {
            asked: board.as_ref().map_or(0, Board::asked),
            folder,
            room,
            board,
            waiting: VecDeque::new(),
            trays: None,
            sealing: HashMap::new(),
            kept: Vec::new(),
            left: Vec::new(),
            connections: HashMap::new(),
            random: crate::record::Random::new(),
            response: Vec::new(),
            epoll,
            news: Bell::new()?,
            kept_known: 0,
            other: None,
            max_pdu,
            last_token: 0,
            due: VecDeque::new(),
            buffer: vec![0; RECEIVED_AT_ONCE],
        })
    }

    /// Keep instances in trays from here on.
    pub fn use_trays(&mut self, file: RawFd, page: RawFd, stripe: (usize, usize), owner: u8) -> Result<()> {
        let care = Care { digest: self.folder.digest, durable: self.board.is_some() };
        let trays = Trays::open(file, page, stripe, owner, care)?;
        socket::watch(&self.epoll, trays.descriptor(), libc::EPOLLIN, TRAYS)?;
        self.trays = Some(trays);
        Ok(())
    }

    /// Return the descriptor that is readable when there is news.
    pub fn descriptor(&self) -> RawFd {
        self.news.descriptor()
    }

    /// Return who left, and how many instances have been kept that nobody took.
    pub fn news(&mut self) -> (Vec<Left>, usize) {
        self.news.hear(0);
        self.kept_known = self.kept.len();
        (mem::take(&mut self.left), self.kept_known)
    }

    /// Return what was kept since the last call.
    pub fn kept(&mut self) -> Vec<Kept> {
        self.kept_known = 0;
        mem::take(&mut self.kept)
    }

    /// Take a connection in.
    pub fn enter(&mut self, connection: Connection) -> Result<u64> {
        self.last_token += 1;
        let token = self.last_token;
        let events = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
        socket::watch(&self.epoll, connection.descriptor, events, token)?;
        self.connections.insert(token, connection);
        Ok(token)
    }

    /// Let a connection out, wherever it stands.
    pub fn leave(&mut self, token: u64) -> Option<Left> {
        let connection = self.connections.remove(&token)?;
        Some(self.out(token, connection, End::default()))
    }

    /// Serve connections until another descriptor is readable, the time is over, or there is news.
    pub fn serve(&mut self, other: RawFd, seconds: Option<f64>) -> Result<()> {
        if self.other != Some(other) {
            socket::watch(&self.epoll, other, libc::EPOLLIN, OTHER)?;
            self.other = Some(other);
        }
        let until = seconds.map(|seconds| socket::now() + seconds);
        loop {
            let left = until.map(|until| (until - socket::now()).max(0.0));
            let others_turn = self.hear(if self.due.is_empty() { left } else { Some(0.0) })?;
            for _ in 0..self.due.len().min(TURNS) {
                self.due.pop_front().into_iter().for_each(|token| self.turn(token));
            }
            self.ring();
            if self.has_news() {
                self.news.ring();
            }
            if others_turn || self.has_news() || left == Some(0.0) {
                return Ok(());
            }
        }
    }

    fn has_news(&self) -> bool {
        !self.left.is_empty() || (self.kept_known == 0 && !self.kept.is_empty())
    }

    pub(crate) fn queue(due: &mut VecDeque<u64>, token: u64, connection: &mut Connection) {
        if !connection.queued && connection.due() {
            connection.queued = true;
            due.push_back(token);
        }
    }

    pub(crate) fn due_now(&mut self, token: u64) {
        if let Some(connection) = self.connections.get_mut(&token) {
            Self::queue(&mut self.due, token, connection);
        }
    }

    /// Note what happens within a time; tell whether it is the other descriptor's turn.
    fn hear(&mut self, seconds: Option<f64>) -> Result<bool> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let mut others_turn = false;
        for event in socket::ready(&self.epoll, &mut events, seconds)? {
            let (token, what) = (event.u64, event.events as i32);
            if token == BELL {
                self.answered();
            } else if token == TRAYS {
                self.written(false);
            } else if token == OTHER {
                others_turn = true;
            } else if let Some(connection) = self.connections.get_mut(&token) {
                connection.readable = true;
                connection.ending |= what & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
                Self::queue(&mut self.due, token, connection);
            }
        }
        Ok(others_turn)
    }

    fn turn(&mut self, token: u64) {
        let Some(mut connection) = self.connections.remove(&token) else { return };
        connection.queued = false;
        let mut buffer = mem::take(&mut self.buffer);
        let served = self.receive(token, &mut connection, &mut buffer);
        self.buffer = buffer;
        match served {
            Ok(()) => {
                Self::queue(&mut self.due, token, &mut connection);
                self.connections.insert(token, connection);
            }
            Err(end) => {
                let left = self.out(token, connection, *end);
                self.left.push(left);
            }
        }
    }

    fn receive(&mut self, token: u64, connection: &mut Connection, buffer: &mut [u8]) -> Served {
        if !connection.due() {
            return Ok(());
        }
        if !connection.held.is_empty() && !connection.looked {
            let held = mem::take(&mut connection.held);
            return self.take(token, connection, &held);
        }
        if connection.held.is_empty()
            && let Some(landed) = self.land(connection)
        {
            return match landed {
                Ok(Landed { received, room, rest }) => {
                    Self::received(connection, received, room)?;
                    self.take(token, connection, &rest)
                }
                Err(error) => Self::not_received(connection, &error),
            };
        }
        let room = match connection.phase {
            Phase::Between if self.trays.is_some() => FIRST_RECEIVED,
            _ => buffer.len(),
        };
        let received = match socket::receive(connection.descriptor, &mut buffer[..room]) {
            Ok(received) => received,
            Err(error) => return Self::not_received(connection, &error),
        };
        Self::received(connection, received, room)?;
        if connection.held.is_empty() {
            return self.take(token, connection, &buffer[..received]);
        }
        let mut held = mem::take(&mut connection.held);
        held.extend_from_slice(&buffer[..received]);
        self.take(token, connection, &held)
    }

    /// Note that so much was received of what there was room for.
    fn received(connection: &mut Connection, received: usize, room: usize) -> Served {
        if received == 0 {
            return Err(End::closed(0));
        }
        if received < room {
            // All there was: the peer may be waiting for an acknowledgement.
            socket::acknowledge(connection.descriptor);
            connection.readable = connection.ending;
        }
        Ok(())
    }

    fn not_received(connection: &mut Connection, error: &Error) -> Served {
        if error.kind() == ErrorKind::WouldBlock {
            connection.readable = false;
            return Ok(());
        }
        Err(End::closed(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Take a connection out of the lane, with what it has in hand.
    pub(crate) fn out(&mut self, token: u64, connection: Connection, end: End) -> Left {
        socket::forget(&self.epoll, connection.descriptor);
        let mut left = Left {
            token,
            answered: connection.answered,
            request: end.request,
            ended: end.ended,
            size: end.size,
            refusal: end.refusal,
            held: [end.held, connection.held].concat(),
            unsent: end.unsent,
            closed: end.closed,
        };
        if let Phase::Receiving(arrival) = connection.phase {
            (left.request, left.size) = (Some(arrival.request), arrival.size);
            match arrival.file {
                Ok(mut keeping) => {
                    self.room.give_back(*keeping.taken());
                    self.give_up(keeping);
                }
                Err(refusal) => left.refusal = Some(refusal),
            }
        }
        left
    }
}

/// Whether a connection stays in the lane.
pub type Served = std::result::Result<(), Box<End>>;

/// Why a connection leaves the lane, as `Left` has it.
#[derive(Default)]
pub struct End {
    pub held: Vec<u8>,
    pub unsent: Vec<u8>,
    pub closed: Option<i32>,
    pub request: Option<Request>,
    pub ended: bool,
    pub size: u64,
    pub refusal: Option<Refusal>,
}

impl End {
    pub fn holding(held: Vec<u8>) -> Box<Self> {
        Box::new(Self { held, ..Self::default() })
    }

    pub fn closed(error: i32) -> Box<Self> {
        Box::new(Self { closed: Some(error), ..Self::default() })
    }
}
