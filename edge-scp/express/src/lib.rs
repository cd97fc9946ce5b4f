//! The edge's express lane, as Python sees it (`edge_scp.receive.fast_path`).

mod aio;
mod command;
mod commit;
mod connection;
mod file;
mod identity;
mod intake;
mod keeping;
mod landing;
mod lane;
mod record;
mod room;
mod shared;
mod socket;
mod transit;
mod trays;

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use connection::{Caller, Connection, Left, Phase, Refusal};
use file::Folder;
use room::Room;
use shared::{Board, Page};

/// An accepted presentation context; `before` and `after` are the file meta information around the instance's UID.
#[pyclass(frozen)]
struct Context(Arc<connection::Context>);

#[pymethods]
impl Context {
    #[new]
    fn new(sop_class: String, transfer_syntax: String, implicit: bool, before: Vec<u8>, after: Vec<u8>) -> Self {
        Self(Arc::new(connection::Context { sop_class, transfer_syntax, implicit, before, after }))
    }
}

/// Token, answered; command set, context id, ended, size, refusal; held, unsent, closed.
type LeftFields<'py> = (
    u64,
    u64,
    Option<(Bound<'py, PyBytes>, u8, bool, u64)>,
    Option<(i32, Option<String>)>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Option<i32>,
);

/// Names and sizes of the files; data sets' bytes in all, and how long each took in seconds; lines for the log.
type KeptFields<'py> = (Vec<(String, u64)>, u64, Vec<f64>, Bound<'py, PyBytes>);

/// The lane of one process; used from its event loop's thread only.
#[pyclass(frozen)]
struct Lane(Mutex<lane::Lane>);

impl Lane {
    /// Return the lane; raise `RuntimeError` while another thread has it.
    fn lane(&self) -> PyResult<MutexGuard<'_, lane::Lane>> {
        self.0.try_lock().map_err(|_| PyRuntimeError::new_err("the express lane is used by another thread"))
    }
}

#[pymethods]
impl Lane {
    /// `ledger` is its page, the word that says that the spool refuses, and the word of the bytes taken; `board` is
    /// its page, the lane's words for what was asked and dealt with, and the bells for asking and answering.
    #[new]
    #[pyo3(signature = (ready, ledger, board, allowance, *, max_pdu, write_back, digest))]
    fn new(
        ready: RawFd,
        ledger: (RawFd, usize, usize),
        board: Option<(RawFd, usize, usize, RawFd, RawFd)>,
        allowance: Py<PyAny>,
        max_pdu: u32,
        write_back: bool,
        digest: bool,
    ) -> PyResult<Self> {
        let ask = move |size: u64| {
            Python::attach(|py| {
                let room = allowance.call1(py, (size,)).and_then(|room| room.extract::<u64>(py));
                room.map_err(|error| error.value(py).to_string())
            })
        };
        let (page, refusing, taken) = ledger;
        let room = Room::open(Page::open(page)?, refusing, taken, Box::new(ask));
        let board =
            board.map(|(page, asked, dealt, asking, answering)| Board::open(page, asked, dealt, asking, answering));
        let folder = Folder { ready, write_back, digest };
        Ok(Self(Mutex::new(lane::Lane::open(folder, room, board.transpose()?, max_pdu)?)))
    }

    /// Keep instances in trays from here on: by their file and page, the first that the lane may take and from there
    /// each how manieth, and the receiver's slot in the ledger.
    fn use_trays(&self, file: RawFd, page: RawFd, first: usize, step: usize, owner: u8) -> PyResult<()> {
        Ok(self.lane()?.use_trays(file, page, (first, step), owner)?)
    }

    /// Return the descriptor that is readable when there is news.
    fn fileno(&self) -> PyResult<RawFd> {
        Ok(self.lane()?.descriptor())
    }

    /// Serve a connection from here on; return the number it has in the lane.
    fn enter(
        &self,
        descriptor: RawFd,
        caller: (String, String),
        trace: (String, String),
        contexts: Vec<(u8, PyRef<'_, Context>)>,
    ) -> PyResult<u64> {
        let ((json, line), (trace_id, trace_flags)) = (caller, trace);
        Ok(self.lane()?.enter(Connection {
            descriptor,
            caller: Arc::new(Caller { json, line, trace_id, trace_flags }),
            contexts: contexts.into_iter().map(|(id, context)| (id, Arc::clone(&context.0))).collect(),
            phase: Phase::Between,
            since: socket::now(),
            begun: None,
            held: Vec::new(),
            looked: false,
            readable: false,
            ending: false,
            queued: false,
            long: false,
            answered: 0,
        })?)
    }

    /// Serve it no more, and return how it stands.
    fn leave<'py>(&self, py: Python<'py>, number: u64) -> PyResult<Option<LeftFields<'py>>> {
        Ok(self.lane()?.leave(number).map(|left| left_fields(py, left)))
    }

    /// Serve connections until another descriptor is readable, so many seconds have passed, or there is news.
    fn serve(&self, py: Python<'_>, other: RawFd, seconds: Option<f64>) -> PyResult<()> {
        py.detach(|| Ok(self.lane()?.serve(other, seconds)?))
    }

    /// Return who left, and how many instances have been kept that nobody took.
    fn news<'py>(&self, py: Python<'py>) -> PyResult<(Vec<LeftFields<'py>>, usize)> {
        let (left, kept) = self.lane()?.news();
        Ok((left.into_iter().map(|left| left_fields(py, left)).collect(), kept))
    }

    /// Return what was kept since the last call.
    fn kept<'py>(&self, py: Python<'py>) -> PyResult<KeptFields<'py>> {
        let kept = self.lane()?.kept();
        let (mut lines, timestamp) = (Vec::new(), record::timestamp(socket::now_ns()));
        kept.iter().for_each(|each| each.log(&mut lines, &timestamp));
        let size = kept.iter().map(|each| each.data_set_size).sum();
        let seconds = kept.iter().map(|each| each.seconds).collect();
        let files = kept.into_iter().map(|each| (each.name, each.taken)).collect();
        Ok((files, size, seconds, PyBytes::new(py, &lines)))
    }

    /// Return where an association stands (0 between messages, 1 receiving, 2 answering), since when by the monotonic
    /// clock, and the bytes of the data set in transit.
    fn progress(&self, number: u64) -> PyResult<Option<(u8, f64, u64)>> {
        let lane = self.lane()?;
        let Some(connection) = lane.connections.get(&number) else { return Ok(None) };
        let since = connection.since;
        Ok(Some(match (&connection.phase, connection.begun) {
            (Phase::Between, None) => (0, since, 0),
            (Phase::Between, Some(begun)) => (1, begun, connection.held.len() as u64),
            (Phase::Receiving(arrival), _) => (1, since, arrival.size),
            (Phase::Answering, _) => (2, since, 0),
        }))
    }

    /// Wait for what is not durable yet.
    fn close(&self) -> PyResult<()> {
        self.lane()?.close();
        Ok(())
    }
}

fn left_fields(py: Python<'_>, left: Left) -> LeftFields<'_> {
    let Left { token, answered, request, ended, size, refusal, held, unsent, closed } = left;
    let request = request.map(|request| (PyBytes::new(py, &request.command_set), request.context_id, ended, size));
    let refusal = refusal.map(|refusal| match refusal {
        Refusal::Full(reason) => (0, Some(reason)),
        Refusal::Disk(error) => (error, None),
        Refusal::NotSynced => (0, None),
    });
    (token, answered, request, refusal, PyBytes::new(py, &held), PyBytes::new(py, &unsent), closed)
}

/// Return the UIDs in a data set's first bytes as the lane finds them: SOP class, SOP instance, study, series; none
/// where it would ask Python, or wait for more.
#[pyfunction]
fn read_identity(data: &[u8], implicit: bool) -> Option<[String; 4]> {
    match identity::read(data, implicit) {
        identity::Reading::Found(found) => {
            let uids = [found.sop_class, found.sop_instance, found.study, found.series];
            Some(uids.map(|uid| String::from_utf8_lossy(uid).into_owned()))
        }
        _ => None,
    }
}

#[pymodule]
fn _express(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(read_identity, module)?)?;
    module.add_class::<Context>()?;
    module.add_class::<Lane>()
}
