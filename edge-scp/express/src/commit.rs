//! The end of an instance: its file is sealed, made durable by the committer, and then answered.

use std::sync::Arc;

use crate::command;
use crate::connection::{Arrival, Caller, Connection, Kept, Pending, Phase, Refusal, Request};
use crate::file;
use crate::intake::size_of;
use crate::lane::{End, Lane, Served};
use crate::record::{Record, hex};
use crate::socket;

/// The committer answers at once, or it is gone and its successor does.
const LAST_ANSWER_MILLISECONDS: i32 = 10_000;

impl Lane {
    /// Seal the instance that has come whole, and ask for it to be made durable.
    pub(crate) fn finish(&mut self, token: u64, connection: &mut Connection, last: &[&[u8]]) -> Served {
        let Phase::Receiving(arrival) = std::mem::replace(&mut connection.phase, Phase::Answering) else {
            return Ok(());
        };
        connection.since = socket::now();
        let (epoch, size) = (arrival.epoch, arrival.size);
        match self.sealed(*arrival, &connection.caller, connection.since, last) {
            Ok((request, kept)) => {
                self.waiting.push_back(Pending { token, epoch, request, kept });
                self.asked += 1;
            }
            Err((request, refusal)) => return Err(Box::new(End::refused(request, size, refusal))),
        }
        Ok(())
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
        while !self.waiting.is_empty() {
            if !self.board.as_ref().is_some_and(|board| board.answering.hear(LAST_ANSWER_MILLISECONDS)) {
                return;
            }
            self.answered();
        }
    }

    fn sealed(
        &mut self,
        arrival: Arrival,
        caller: &Arc<Caller>,
        whole: f64,
        last: &[&[u8]],
    ) -> Result<(Request, Kept), (Request, Refusal)> {
        let Arrival { request, context, file, sop_instance, study, series, size, .. } = arrival;
        let mut file = match file {
            Ok(file) => file,
            Err(refusal) => return Err((request, refusal)),
        };
        let named = self.random.hex().and_then(|span| Ok((span, self.random.hex()?)));
        let sealed = named.map_err(|error| Refusal::of(&error)).and_then(|(span, random)| {
            let now_ns = socket::now_ns();
            let traceparent = format!("00-{}-{span}-{}", caller.trace_id, caller.trace_flags);
            let sha256 = hex(&file.sha256(last));
            let record = Record {
                study: &study,
                series: &series,
                sop_instance: &sop_instance,
                sop_class: &context.sop_class,
                transfer_syntax: &context.transfer_syntax,
                sha256: &sha256,
                object_size: file.data_set_offset + size,
                data_set_offset: file.data_set_offset,
                caller: &caller.json,
                traceparent: &traceparent,
            };
            let footer = record.footer(now_ns);
            let name = format!("{now_ns:020}-{random}.dcm");
            self.room.take(size_of(last) + footer.len() as u64, &mut file.taken).map_err(Refusal::Full)?;
            file.seal(&self.folder, last, &footer, &name).map_err(|error| Refusal::of(&error))?;
            Ok((traceparent, sha256, name))
        });
        match sealed {
            Ok((traceparent, sha256, name)) => {
                let (caller, data_set_size, seconds) = (Arc::clone(caller), size, whole);
                let kept = Kept {
                    caller,
                    context,
                    sop_instance,
                    study,
                    series,
                    sha256,
                    traceparent,
                    data_set_size,
                    name,
                    file,
                    seconds,
                };
                Ok((request, kept))
            }
            Err(refusal) => {
                self.room.give_back(file.taken);
                Err((request, refusal))
            }
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
        let Pending { token, request, kept, .. } = pending;
        self.room.give_back(kept.file.taken);
        file::unlink(&self.folder, &kept.name);
        if let Some(mut connection) = self.connections.remove(&token) {
            connection.phase = Phase::Between;
            let left = self.out(token, connection, End::refused(request, kept.data_set_size, Refusal::NotSynced));
            self.left.push(left);
        }
    }
}

impl End {
    fn refused(request: Request, size: u64, refusal: Refusal) -> Self {
        Self { request: Some(request), ended: true, size, refusal: Some(refusal), ..Self::default() }
    }
}
