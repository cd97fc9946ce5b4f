//! The edge's fast path: plain C-STOREs on connections without TLS, received, stored and answered in native code.
//!
//! Nearly everything that arrives at an edge is one thing over and over: C-STORE-RQ, data set, Success. Python accepts
//! connections and negotiates associations; between two messages it lends a connection to this code. Whatever is not a
//! plain C-STORE is handed back as it was received, and Python serves it (docs/adr/0017).
//!
//! # One instance
//!
//! 1. [`event_loop`] learns that a connection is readable and gives it a [`intake::Turn`].
//! 2. [`intake`] receives. [`command`] reads the command set, [`p_data`] unwraps the data set, and [`identity`] finds
//!    the four UIDs. From here on the instance is stored, or refused.
//! 3. [`spooler`] stores its bytes while they arrive: in a slot ([`slots`]) if one is free, or else in a [`file`].
//! 4. With its last byte, [`spooler`] adds the footer ([`record`]) and seals it.
//! 5. [`commit`] waits until it is durable: a slot's own writes say so, or the commit worker does ([`sync_queue`]).
//! 6. [`event_loop`] answers Success, and tells Python that there is an instance to upload.
//!
//! # Layout
//!
//! Each file uses only files below it.
//!
//! - [`python`]: the classes that Python sees.
//! - [`event_loop`]: waits, gives turns, answers. It owns all that follows.
//! - [`intake`]: bytes to instances. [`commit`]: instances to durable instances.
//! - [`spooler`]: where an instance's bytes go.
//! - [`connection`]: one association. [`instance`]: one instance, and what is known of it at each step.
//! - [`slots`], [`slot`], [`aio`], [`buffer`]: writing to slots. [`file`]: writing to files.
//! - [`record`], [`identity`], [`command`], [`p_data`]: formats. They do no input or output.
//! - [`capacity`], [`sync_queue`]: what the edge's processes share, over [`shared_memory`].
//! - [`epoll`], [`eventfd`], [`socket`], [`clock`], [`random`], [`syscall`]: Linux.
//!
//! `cargo test --no-default-features` runs the tests in `tests/`: without its feature `python` the crate needs no
//! Python to link with.

#![cfg_attr(not(feature = "python"), allow(dead_code, reason = "only Python and the tests use the crate"))]

mod aio;
mod buffer;
mod capacity;
mod clock;
mod command;
mod commit;
mod connection;
mod epoll;
mod event_loop;
mod eventfd;
mod file;
mod identity;
mod instance;
mod intake;
mod p_data;
#[cfg(feature = "python")]
mod python;
mod random;
mod record;
mod shared_memory;
mod slot;
mod slots;
mod socket;
mod spooler;
mod sync_queue;
mod syscall;
#[cfg(test)]
mod tests;
