//! What pointsman's kernel half and user half agree on.
//!
//! Two kinds of things live here and nothing else: the layout of every BPF map
//! (the ABI between the XDP program and the agent), and every *decision* of the
//! data plane as a pure function. Time, seeds and bytes are parameters; there is
//! no clock, no randomness, no allocation and no I/O. That is what lets the same
//! code run under the verifier and under property tests on the host.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod access;
pub mod address;
pub mod affinity;
pub mod backend;
pub mod bench;
pub mod check_path;
pub mod checksum;
pub mod counters;
pub mod denial;
pub mod drop_reason;
pub mod ended;
pub mod event;
pub mod expiry;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod half_open;
pub mod hash;
pub mod icmp;
pub mod maglev;
pub mod ports;
pub mod ring;
pub mod rst;
pub mod server;
pub mod settings;
pub mod source;
pub mod sources;
pub mod stage;
pub mod syn_cookie;
pub mod tcp_state;
pub mod timeouts;
pub mod token_bucket;
pub mod trace;
pub mod vip;
