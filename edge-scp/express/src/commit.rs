//! The end of an instance: its file is sealed, made durable by the committer, and then answered.

use std::io::{ErrorKind, Result as Done};
use std::sync::Arc;

use crate::command;
use crate::connection::{Arrival, Caller, Connection, Kept, Pending, Phase, Refusal, Request};
use crate::file::{self, SpoolFile};
use crate::intake::size_of;
use crate::keeping::Keeping;
use crate::lane::{End, Lane, Served};
use crate::record::{Record, hex};
use crate::socket;
use crate::trays::Trays;

/// The committer answers at once, or it is gone and its successor does.
const LAST_ANSWER_MILLISECONDS: i32 = 10_000;

/// The name of what was sealed, its file, and the key of its tray.
type Sealed = (String, Option<SpoolFile>, Option<u64>);

impl Lane {
    /// Seal the instance that has come whole, and have it made durable.
    pub(crate) fn finish(&mut self, token: u64, connection: &mut Connection, last: &[&[u8]]) -> Served {
        let Phase::Receiving(mut arrival) = std::mem::replace(&mut connection.phase, Phase::Answering) else {
            return Ok(());
        };
        connection.since = socket::now();
        connection.long = !Trays::fits(arrival.size);
        let mut last = last;
        if matches!(arrival.file, Ok(Keeping::Tray(_))) {
            self.keep(&mut arrival, last);
            last = &[];
        }
        let (epoch, size) = (arrival.epoch, arrival.size);
        match self.sealed(*arrival, &connection.caller, connection.since, last) {
            Ok((request, kept, key)) => {
                let pending = Pending { token, epoch, request, kept };
                match key {
                    Some(key) => {
                        self.sealing.insert(key, pending);
                    }
                    None => {
                        self.waiting.push_back(pending);
                        self.asked += 1;
                    }
                }
            }
            Err((request, refusal)) => return Err(Box::new(End::refused(request, size, refusal))),
        }
        Ok(())
    }

    /// Answer for the trays that were written, after waiting for one if `wait`.
    pub(crate) fn written(&mut self, wait: bool) {
        let Some(trays) = &mut self.trays else { return };
        for (key, error) in trays.ended(wait) {
            match (self.sealing.remove(&key), error) {
                (Some(pending), None) => self.durable(pending),
                (Some(pending), Some(error)) => self.failed(pending, Refusal::Disk(error)),
                (None, _) => {}
            }
        }
    }

    /// Tell the committer of what was sealed since; where there is none, nothing waits for the disk.
    pub(crate) fn ring(&mut self) {
        let Some(board) = &self.board else {
            while let Some(pending) = self.waiting.pop_front() {
                self.durable(pending);
            }
            return;
        };
        if board.asked() != self.asked {
            board.ask(self.asked);
            board.ring();
        }
    }

    /// Answer what the committer has dealt with.
    pub(crate) fn answered(&mut self) {
        let Some(board) = &self.board else { return };
        board.answering.hear(0);
        let (dealt, epoch) = board.dealt();
        let still_waiting = (self.asked - dealt).max(0) as usize;
        while self.waiting.len() > still_waiting {
            let Some(pending) = self.waiting.pop_front() else { return };
            if pending.epoch == epoch {
                self.durable(pending);
            } else {
                self.lost(pending);
            }
        }
    }

    /// Wait for the last answers.
    pub fn close(&mut self) {
        self.ring();
        while !self.sealing.is_empty() {
            self.written(true);
        }
        while !self.waiting.is_empty() {
            if !self.board.as_ref().is_some_and(|board| board.answering.hear(LAST_ANSWER_MILLISECONDS)) {
                return;
            }
            self.answered();
        }
    }

    /// Return what was sealed, and the key by which its tray says that it is durable, if it has one.
    fn sealed(
        &mut self,
        arrival: Arrival,
        caller: &Arc<Caller>,
        whole: f64,
        last: &[&[u8]],
    ) -> Result<(Request, Kept, Option<u64>), (Request, Refusal)> {
        let Arrival { request, context, file, sop_instance, study, series, size, .. } = arrival;
        let mut keeping = match file {
            Ok(keeping) => keeping,
            Err(refusal) => return Err((request, refusal)),
        };
        let span = match self.random.hex() {
            Ok(span) => span,
            Err(error) => return Err((request, self.unsealed(keeping, Refusal::of(&error)))),
        };
        let now_ns = socket::now_ns();
        let traceparent = format!("00-{}-{span}-{}", caller.trace_id, caller.trace_flags);
        let sha256 = hex(&keeping.sha256(last));
        let record = Record {
            study: &study,
            series: &series,
            sop_instance: &sop_instance,
            sop_class: &context.sop_class,
            transfer_syntax: &context.transfer_syntax,
            sha256: &sha256,
            object_size: keeping.data_set_offset() + size,
            data_set_offset: keeping.data_set_offset(),
            caller: &caller.json,
            traceparent: &traceparent,
        };
        let footer = record.footer(now_ns);
        if let Err(reason) = self.room.take(size_of(last) + footer.len() as u64, keeping.taken()) {
            return Err((request, self.unsealed(keeping, Refusal::Full(reason))));
        }
        let taken = *keeping.taken();
        match self.seal(keeping, last, &footer, now_ns) {
            Ok((name, file, key)) => {
                let kept = Kept {
                    caller: Arc::clone(caller),
                    context,
                    sop_instance,
                    study,
                    series,
                    sha256,
                    traceparent,
                    data_set_size: size,
                    name,
                    taken,
                    file,
                    seconds: whole,
                };
                Ok((request, kept, key))
            }
            Err(error) => {
                self.room.give_back(taken);
                Err((request, Refusal::of(&error)))
            }
        }
    }

    fn unsealed(&mut self, mut keeping: Keeping, refusal: Refusal) -> Refusal {
        self.room.give_back(*keeping.taken());
        self.give_up(keeping);
        refusal
    }

    /// Append the last pieces and the footer; return the name, the file or the key of the tray.
    fn seal(&mut self, keeping: Keeping, last: &[&[u8]], footer: &[u8], now_ns: u64) -> Done<Sealed> {
        match (keeping, &mut self.trays) {
            (Keeping::Tray(tray), Some(trays)) => {
                let name = format!("{now_ns:020}-{}.tray", tray.index);
                Ok((name, None, Some(trays.seal(tray, footer, now_ns)?)))
            }
            (Keeping::File(mut file), _) => {
                let name = format!("{now_ns:020}-{}.dcm", self.random.hex()?);
                file.seal(&self.folder, last, footer, &name)?;
                Ok((name, Some(file), None))
            }
            (Keeping::Tray(_), None) => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Answer Success: the instance is on the disk.
    fn durable(&mut self, pending: Pending) {
        let Pending { token, request, mut kept, .. } = pending;
        kept.seconds = socket::now() - kept.seconds;
        if let Some(mut connection) = self.connections.remove(&token) {
            connection.answered += 1;
            (connection.phase, connection.since) = (Phase::Between, socket::now());
            match self.respond(&connection, &request, &kept) {
                Ok(()) => {
                    self.connections.insert(token, connection);
                    self.due_now(token);
                }
                Err(end) => {
                    let left = self.out(token, connection, *end);
                    self.left.push(left);
                }
            }
        }
        self.kept.push(kept);
    }

    fn respond(&mut self, connection: &Connection, request: &Request, kept: &Kept) -> Served {
        let pdu = &mut self.response;
        pdu.clear();
        let (class, instance) = (kept.context.sop_class.as_bytes(), kept.sop_instance.as_bytes());
        command::success(pdu, request.context_id, request.message_id, class, instance);
        match socket::send(connection.descriptor, pdu) {
            Ok(sent) if sent == pdu.len() => Ok(()),
            Ok(sent) => Err(Box::new(End { unsent: pdu[sent..].to_vec(), ..End::default() })),
            Err(error) => Err(End::closed(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// Let Python answer that the disk failed; nothing is known of the file, so it goes.
    fn lost(&mut self, pending: Pending) {
        file::unlink(&self.folder, &pending.kept.name);
        self.failed(pending, Refusal::NotSynced);
    }

    /// Let Python answer that an instance is not kept.
    fn failed(&mut self, pending: Pending, refusal: Refusal) {
        let Pending { token, request, kept, .. } = pending;
        self.room.give_back(kept.taken);
        if let Some(mut connection) = self.connections.remove(&token) {
            connection.phase = Phase::Between;
            let left = self.out(token, connection, End::refused(request, kept.data_set_size, refusal));
            self.left.push(left);
        }
    }
}

impl End {
    fn refused(request: Request, size: u64, refusal: Refusal) -> Self {
        Self { request: Some(request), ended: true, size, refusal: Some(refusal), ..Self::default() }
    }
}
