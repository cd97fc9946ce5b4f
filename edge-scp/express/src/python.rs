//! What Python sees (`edge_scp/_express.pyi`): one class to serve by, and named values that go in and out.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::capacity::Capacity;
use crate::clock;
use crate::commit::Commit;
use crate::connection::{self, Connection, Progress};
use crate::event_loop::EventLoop;
use crate::file::ReadyFolder;
use crate::identity::{self, Reading};
use crate::instance;
use crate::shared_memory::SharedWords;
use crate::slots::SlotShare;
use crate::spooler::Spooler;
use crate::sync_queue::SyncQueueEnd;

/// An accepted presentation context; `before` and `after` are the file meta information around an instance's UID.
#[pyclass(frozen)]
struct Context(Arc<instance::Context>);

#[pymethods]
impl Context {
    #[new]
    fn new(sop_class: String, transfer_syntax: String, implicit: bool, before: Vec<u8>, after: Vec<u8>) -> Self {
        Self(Arc::new(instance::Context { sop_class, transfer_syntax, implicit, before, after }))
    }
}

/// The sender of an association's instances.
#[pyclass(frozen)]
struct Caller(Arc<instance::Caller>);

#[pymethods]
impl Caller {
    #[new]
    #[pyo3(signature = (*, record_fields, log_fields, trace_id, trace_flags))]
    fn new(record_fields: String, log_fields: String, trace_id: String, trace_flags: String) -> Self {
        Self(Arc::new(instance::Caller { record_fields, log_fields, trace_id, trace_flags }))
    }
}

/// The shared counters, and which of their words say that the spool refuses, and what this receiver has taken.
#[derive(FromPyObject)]
struct SpoolCounters {
    page: RawFd,
    refusing: usize,
    taken: usize,
}

/// A C-STORE that was not answered.
#[pyclass(frozen, get_all)]
struct Unanswered {
    context_id: u8,
    command_set: Py<PyBytes>,
    complete: bool,
    received: u64,
    refused: bool,
    reason: Option<String>,
    errno: Option<i32>,
}

impl Unanswered {
    fn new(py: Python<'_>, unanswered: connection::Unanswered) -> Self {
        let connection::Unanswered { request, complete, received, refusal } = unanswered;
        let refused = refusal.is_some();
        let (reason, errno) = match refusal {
            Some(instance::Refusal::Full(reason)) => (Some(reason), None),
            Some(instance::Refusal::Disk(errno)) => (None, Some(errno)),
            Some(instance::Refusal::NotSynced) | None => (None, None),
        };
        let command_set = PyBytes::new(py, &request.command_set).unbind();
        Self { context_id: request.context_id, command_set, complete, received, refused, reason, errno }
    }
}

/// A connection that is handed back, and how it stands.
#[pyclass(frozen, get_all)]
struct Handback {
    session: u64,
    stored: u64,
    unanswered: Option<Py<Unanswered>>,
    unread: Py<PyBytes>,
    unsent: Py<PyBytes>,
    closed: Option<i32>,
}

impl Handback {
    fn new(py: Python<'_>, handback: connection::Handback) -> PyResult<Self> {
        let connection::Handback { session, stored, unanswered, unread, unsent, closed } = handback;
        let unanswered = unanswered.map(|unanswered| Py::new(py, Unanswered::new(py, unanswered))).transpose()?;
        let (unread, unsent) = (PyBytes::new(py, &unread).unbind(), PyBytes::new(py, &unsent).unbind());
        Ok(Self { session, stored, unanswered, unread, unsent, closed })
    }
}

/// What Python has not been told of: connections, and how many instances `take_spooled` would return.
#[pyclass(frozen, get_all)]
struct Notifications {
    handbacks: Py<PyList>,
    spooled: usize,
}

/// Instances that became durable, in the order they did.
#[pyclass(frozen, get_all)]
struct Spooled {
    /// Names and sizes of their records.
    records: Py<PyList>,
    /// Bytes of all data sets together.
    data_set_bytes: u64,
    /// What each took to become durable.
    seconds: Py<PyList>,
    log_lines: Py<PyBytes>,
}

/// The fast path of one process; used from its event loop's thread only.
#[pyclass(frozen)]
struct FastPath(Mutex<EventLoop>);

impl FastPath {
    /// Returns the event loop; raises `RuntimeError` while another thread has it.
    fn event_loop(&self) -> PyResult<MutexGuard<'_, EventLoop>> {
        self.0.try_lock().map_err(|_| PyRuntimeError::new_err("the fast path is in use by another thread"))
    }
}

#[pymethods]
impl FastPath {
    #[new]
    #[pyo3(signature = (*, ready, counters, allowance, queue, max_pdu))]
    fn new(
        ready: RawFd,
        counters: SpoolCounters,
        allowance: Py<PyAny>,
        queue: SyncQueueEnd,
        max_pdu: u32,
    ) -> PyResult<Self> {
        let ask = move |size: u64| {
            Python::attach(|py| {
                let allowed = allowance.call1(py, (size,)).and_then(|allowed| allowed.extract::<u64>(py));
                allowed.map_err(|error| error.value(py).to_string())
            })
        };
        let SpoolCounters { page, refusing, taken } = counters;
        let capacity = Capacity::new(SharedWords::open(page)?, refusing, taken, Box::new(ask));
        let spooler = Spooler::new(ReadyFolder(ready), capacity);
        Ok(Self(Mutex::new(EventLoop::open(spooler, Commit::open(queue)?, max_pdu)?)))
    }

    /// Stores instances in slots from here on: in every `step`th from `first`, as the receiver number `owner`.
    #[pyo3(signature = (*, file, states, first, step, owner))]
    fn use_slots(&self, file: RawFd, states: RawFd, first: usize, step: usize, owner: u8) -> PyResult<()> {
        Ok(self.event_loop()?.use_slots(&SlotShare { file, states, first, step, owner })?)
    }

    /// Returns the descriptor that is readable when there are notifications.
    fn fileno(&self) -> PyResult<RawFd> {
        Ok(self.event_loop()?.descriptor())
    }

    /// Serves a connection from here on; returns the number of its session.
    fn enter(
        &self,
        descriptor: RawFd,
        caller: PyRef<'_, Caller>,
        contexts: Vec<(u8, PyRef<'_, Context>)>,
    ) -> PyResult<u64> {
        let contexts = contexts.into_iter().map(|(id, context)| (id, Arc::clone(&context.0))).collect();
        Ok(self.event_loop()?.enter(Connection::new(descriptor, Arc::clone(&caller.0), contexts))?)
    }

    /// Hands a connection back, wherever it stands; returns None if it has been already.
    fn leave(&self, py: Python<'_>, session: u64) -> PyResult<Option<Handback>> {
        self.event_loop()?.leave(session).map(|handback| Handback::new(py, handback)).transpose()
    }

    /// Serves connections until `other` is readable, the time is over, or there are notifications.
    fn serve(&self, py: Python<'_>, other: RawFd, seconds: Option<f64>) -> PyResult<()> {
        py.detach(|| Ok(self.event_loop()?.serve(other, seconds)?))
    }

    /// Takes what Python has not been told of.
    fn notifications(&self, py: Python<'_>) -> PyResult<Notifications> {
        let taken = self.event_loop()?.notifications();
        let handbacks = PyList::empty(py);
        for handback in taken.handbacks {
            handbacks.append(Handback::new(py, handback)?)?;
        }
        Ok(Notifications { handbacks: handbacks.unbind(), spooled: taken.spooled })
    }

    /// Takes the instances that became durable since the last call.
    fn take_spooled(&self, py: Python<'_>) -> PyResult<Spooled> {
        let spooled = self.event_loop()?.take_spooled();
        let (mut lines, timestamp) = (Vec::new(), clock::timestamp(clock::unix_ns()));
        spooled.iter().for_each(|instance| instance.log(&mut lines, &timestamp));
        Ok(Spooled {
            data_set_bytes: spooled.iter().map(|instance| instance.data_set_size).sum(),
            seconds: PyList::new(py, spooled.iter().map(|instance| instance.seconds))?.unbind(),
            records: PyList::new(py, spooled.into_iter().map(|instance| (instance.name, instance.taken)))?.unbind(),
            log_lines: PyBytes::new(py, &lines).unbind(),
        })
    }

    /// Returns where a session stands; None if it was handed back.
    fn progress(&self, session: u64) -> PyResult<Option<Progress>> {
        Ok(self.event_loop()?.progress(session))
    }

    /// Waits for what is not durable yet.
    fn close(&self) -> PyResult<()> {
        self.event_loop()?.close();
        Ok(())
    }
}

/// Returns the UIDs in the first bytes of a data set: SOP class, SOP instance, study, series; None where the fast path
/// would leave them to Python, or wait for more.
#[pyfunction]
fn read_identity(data: &[u8], implicit: bool) -> Option<[String; 4]> {
    match identity::read(data, implicit) {
        Reading::Found(found) => {
            let uids = [found.sop_class, found.sop_instance, found.study, found.series];
            Some(uids.map(|uid| String::from_utf8_lossy(uid).into_owned()))
        }
        Reading::NeedMore | Reading::Unusual => None,
    }
}

#[pymodule]
fn _express(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(read_identity, module)?)?;
    module.add_class::<Context>()?;
    module.add_class::<Caller>()?;
    module.add_class::<FastPath>()?;
    module.add_class::<Handback>()?;
    module.add_class::<Notifications>()?;
    module.add_class::<Progress>()?;
    module.add_class::<Spooled>()?;
    module.add_class::<Unanswered>()
}
