//! What the debugger needs of whoever runs the TD.

use tdx_host::{Host, HostError, Lp, Td, Vcpu};

/// The TD and its processors, while nothing runs.
#[derive(Debug)]
pub struct Parts<'a, M, L> {
    pub host: &'a Host<M>,
    pub td: &'a Td,
    pub lps: &'a mut [Lp<L>],
    pub vcpus: &'a mut [Vcpu],
}

/// Which vCPUs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    All,
    Only(usize),
}

/// How a slice of running ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slice {
    /// Nothing happened that the debugger asked for.
    Ran,
    /// A vCPU stopped for its debugger: exit qualification and interruption information of the exception.
    Stopped {
        vcpu: usize,
        qualification: u64,
        interruption: u64,
    },
    /// A vCPU cannot go on, and its state can still be read: triple fault, fatal error. Whoever runs it again gets
    /// the same answer.
    Stuck { vcpu: usize, why: String },
    /// The TD powered off.
    Ended { status: u8 },
}

/// Runs the vCPUs of a TD in slices.
pub trait Owner {
    type Memory: tdx_call::HostMemory;
    type Lp: tdx_call::SeamcallLp;

    fn parts(&mut self) -> Parts<'_, Self::Memory, Self::Lp>;
    /// The processor that a vCPU runs on, by index into `lps`.
    fn lp_of(&self, vcpu: usize) -> usize;
    /// Runs for a moment, at most some milliseconds.
    fn slice(&mut self, which: Which) -> Result<Slice, HostError>;
    /// The last exits of a vCPU, newest last, for `monitor exits`.
    fn last_exits(&self, vcpu: usize, count: usize) -> Vec<String>;
    /// A number or name of the TDX world in words, for `monitor explain`.
    fn explain(&self, value: &str) -> String;
    /// Tells the server's side what the protocol has no room for: why a register was refused, why a client was dropped.
    fn tell(&mut self, words: &str);
    /// Called again and again while the debugger waits for its client.
    fn meanwhile(&mut self) {}
}
