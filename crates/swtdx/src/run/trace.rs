//! `--trace`: one line for each call, with what went in and what came out.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use coco_regs::{Exit, ExitKind};
use tdx_abi::{HostLeaf, LeafWord, Status};
use tdx_call::{NoSeam, SeamcallLp, TdxModuleArgs, Traffic, VpEntry};
use x86_arch::{ExitReason, Gpr};

/// Where the lines of all processors go.
pub type Sink = Arc<Mutex<Box<dyn Write + Send>>>;

/// A processor that writes down what is called on it.
pub struct Traced<L> {
    inner: L,
    lp: u32,
    sink: Sink,
}

impl<L> Traced<L> {
    pub fn new(inner: L, lp: u32, sink: Sink) -> Self {
        Self { inner, lp, sink }
    }

    /// A line that cannot be written is lost; the run goes on.
    fn line(&self, text: &str) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(sink, "LP {} {text}", self.lp);
    }
}

impl<L: SeamcallLp> SeamcallLp for Traced<L> {
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        let before = *args;
        let done = self.inner.seamcall(leaf, args, traffic);
        let mut line = format!("{:<24}", HostLeaf(leaf.number()).to_string());
        if leaf.version() != 0 {
            line += &format!(" v{}", leaf.version());
        }
        for (name, value) in named(&before).into_iter().filter(|&(_, value)| value != 0) {
            line += &format!(" {name} {value:#x}");
        }
        match done {
            Ok(status) => line += &format!(" -> {status}"),
            Err(why) => line += &format!(" -> {why}"),
        }
        let changed = named(&before).into_iter().zip(named(args));
        for ((name, old), (_, new)) in changed {
            if old != new {
                line += &format!(" {name} {new:#x}");
            }
        }
        self.line(&line);
        done
    }

    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        let done = self.inner.vp_enter(entry);
        let words = entry.words();
        let mut line = format!("{:<24}", HostLeaf::VP_ENTER.to_string());
        match (done, words.kind()) {
            (Err(why), _) => line += &format!(" -> {why}"),
            (Ok(status), ExitKind::NotEntered) => line += &format!(" -> {status}"),
            (Ok(_), ExitKind::Tdvmcall) => {
                line += &format!(" -> TDVMCALL, RCX {:#x}", words.rcx);
                if let Exit::Tdvmcall(call) = entry.exit() {
                    for reg in Gpr::ALL {
                        if let Ok(value) = call.gprs.get(reg) {
                            line += &format!(" {reg} {value:#x}");
                        }
                    }
                }
            }
            (Ok(status), ExitKind::Asynchronous) => {
                let reason = ExitReason(words.exit_reason() as u16);
                line += &format!(" -> {} {reason}", status.code());
                let rest = [
                    ("RCX", words.rcx),
                    ("RDX", words.rdx),
                    ("R8", words.r8),
                    ("R9", words.r9),
                ];
                for (name, value) in rest.into_iter().filter(|&(_, value)| value != 0) {
                    line += &format!(" {name} {value:#x}");
                }
            }
        }
        self.line(&line);
        done
    }
}

/// The six registers that cross an ordinary call.
fn named(args: &TdxModuleArgs) -> [(&'static str, u64); 6] {
    [
        ("RCX", args.rcx),
        ("RDX", args.rdx),
        ("R8", args.r8),
        ("R9", args.r9),
        ("R10", args.r10),
        ("R11", args.r11),
    ]
}
