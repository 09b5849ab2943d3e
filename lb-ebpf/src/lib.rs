//! pointsman's data plane: packet access, map access and dispatch around the decisions of
//! `lb_common`.
//!
//! A packet passes through the modules in this order: [`parse`] finds out what it is,
//! [`balance`] looks for its flow, [`hit`] handles packets of known flows, [`admit`] opens
//! new ones ([`select`] picks the server, [`track`] the port), [`rewrite`] and
//! [`transmit`] send it on its way; [`one_way`] and [`encapsulate`] do if the server answers
//! its clients itself. [`reset`] answers in place of a dead server. ICMP messages go to
//! [`icmp`], which finds the flow that they are about by [`related`]; fragments go through
//! [`fragment`].
//!
//! Within a stage everything is inlined: the verifier follows packet pointers only within
//! a function.
#![no_std]
#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and offsets of packets fit 32 bits; checked conversions would panic"
)]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "keys passed by value are copied to a stack of 512 bytes again"
)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod access;
pub mod admit;
pub mod affinity;
pub mod atomic;
pub mod balance;
pub mod clock;
pub mod confirmed;
pub mod context;
pub mod cookie;
pub mod counters;
pub mod dead;
pub mod encapsulate;
pub mod ended;
pub mod event;
pub mod expire;
pub mod family;
pub mod fragment;
pub mod half_open;
pub mod handshake;
pub mod hit;
pub mod icmp;
pub mod limits;
pub mod made;
pub mod maps;
mod object;
pub mod one_way;
pub mod packet;
pub mod parse;
pub mod related;
pub mod reset;
pub mod rewrite;
pub mod select;
pub mod settle;
pub mod splice;
mod stages;
pub mod too_big;
pub mod track;
pub mod transmit;
pub mod verdict;
pub mod verifier;
pub mod words;
