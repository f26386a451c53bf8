//! An x86-64 processor in VMX non-root mode: it runs guest code until a VM exit.
//!
//! This is the reference interpreter: it says what is correct. Read in this order: [`platform`] (what the engine
//! asks of the machine around it), [`engine`] (the run loop), [`cpu`] (the state while running), [`memory`] and
//! [`paging`], [`exec`] (one file per instruction family), [`event`] (exceptions and interrupts), [`exit`].
//!
//! No guest byte sequence, page table or register state makes it panic, hang, or touch memory that the
//! [`Platform`] did not hand out. Unsafe code is in two files of `translate` alone.
#![deny(unsafe_code)]

pub mod alu;
pub mod apic;
pub mod code;
pub mod cpu;
pub mod engine;
mod entry;
pub mod event;
pub mod exec;
pub mod exit;
pub mod fault;
pub mod flags;
pub mod flat;
pub mod float;
pub mod fuzz;
pub mod hot;
mod kind;
pub mod lower;
pub mod memory;
pub mod op;
pub mod operand;
pub mod paging;
pub mod platform;
pub mod platform_cpu;
pub mod segment;
pub mod side_by_side;
pub mod simd;
mod statistics;
pub mod tlb;
mod translate;
pub mod width;

pub use cpu::Cpu;
pub use engine::{Engine, Ran, Stop};
pub use fault::Fault;
pub use kind::EngineKind;
pub use platform::{MachineCheck, PendingEvents, Platform};
pub use statistics::Statistics;
pub use tlb::Cached;
