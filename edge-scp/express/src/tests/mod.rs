//! Tests of the crate by itself. `tests/integration/edge_scp/test_express.py` compares it with the receiver in Python.

mod capacity;
mod command;
mod event_loop;
mod file;
mod identity;
mod messages;
mod p_data;
mod record;
mod slots;
mod sync_queue;
mod world;
