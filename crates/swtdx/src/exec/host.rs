//! SEAMCALL for the program: a module over simulated physical memory, which is a file that the program maps.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use coco_regs::{GprFile, XmmFile};
use tdx_abi::{HostLeaf, LeafWord};
use tdx_call::{NoSeam, SoftwareSeam};
use tdx_platform::{Attachments, EngineKind, Guests, Platform, PlatformConfig, SharedMemory};
use x86_arch::{Gpr, Hpa};

use super::ptrace::{Tracee, memory_file};

/// Ticks after which the host's timer ends a stay in a guest, as on a host that ticks a hundred times a second.
const SLICE: u64 = 10_000_000;

/// Registers of a thread at one of the two instructions.
#[derive(Clone, Debug)]
pub struct Registers {
    pub gprs: GprFile,
    pub xmms: XmmFile,
}

/// A call that is over.
pub struct Served {
    pub lp: usize,
    pub thread: Tracee,
    pub result: Result<Registers, NoSeam>,
}

/// The module and the processors that call it, each on a thread of its own.
pub struct HostSide {
    file: Arc<File>,
    size: u64,
    processors: Vec<Sender<(Tracee, Registers)>>,
    served: Receiver<Served>,
}

/// The file as the memory under the host's keys. The program has it mapped; both see every write at once.
struct Window(Arc<File>);

impl SharedMemory for Window {
    fn read(&self, from: Hpa, to: &mut [u8]) {
        // Inside the file, which nobody can shrink without breaking his own mapping: then it reads as an empty bus.
        if self.0.read_exact_at(to, from.raw()).is_err() {
            to.fill(0xFF);
        }
    }
    fn write(&self, to: Hpa, from: &[u8]) {
        // A full disk of memory is the only failure; the write vanishes as on an empty bus.
        let _ = self.0.write_all_at(from, to.raw());
    }
}

impl HostSide {
    /// A machine just switched on, whose guests this engine runs.
    pub fn new(mut config: PlatformConfig, seed: u64, engine: EngineKind) -> io::Result<HostSide> {
        let lps = config.machine.lps.len();
        let size = config.machine.ram.iter().sum();
        config.machine.seed = seed;
        let file = Arc::new(memory_file(size)?);
        let attachments = Attachments {
            shared_memory: Some(Box::new(Window(Arc::clone(&file)))),
            observer: None,
        };
        let platform = Platform::attached(config, Guests::engine_of(engine, lps), attachments);
        if let Some(why) = platform.refused() {
            eprintln!("swtdx: engine    the interpreter instead of the {engine}: {why}");
        }
        let (done, served) = channel();
        let processors = (0..lps)
            .map(|lp| {
                let (send, calls) = channel();
                let (platform, done) = (Arc::clone(&platform), done.clone());
                std::thread::spawn(move || processor(&platform, lp, &calls, &done));
                send
            })
            .collect();
        Ok(HostSide {
            file,
            size,
            processors,
            served,
        })
    }

    pub fn file(&self) -> &File {
        &self.file
    }
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the call on processor `lp`; the answer comes through `served`.
    pub fn call(&self, lp: usize, thread: Tracee, registers: Registers) {
        // A processor's thread ends only with this value.
        let _ = self.processors[lp].send((thread, registers));
    }
    pub fn served(&self) -> &Receiver<Served> {
        &self.served
    }
}

/// One processor: it makes the calls that are sent to it.
fn processor(
    platform: &Arc<Platform>,
    lp: usize,
    calls: &Receiver<(Tracee, Registers)>,
    done: &Sender<Served>,
) {
    let Some(mut processor) = platform.lp(lp as u32) else {
        return;
    };
    let hardware = platform.hardware();
    for (thread, mut registers) in calls {
        let leaf = HostLeaf(LeafWord(registers.gprs[Gpr::Rax]).number());
        if leaf == HostLeaf::VP_ENTER {
            hardware.arm_timer(lp as u32, hardware.time() + SLICE);
        }
        let call = AssertUnwindSafe(|| {
            let Registers { gprs, xmms } = &mut registers;
            processor.0.seamcall(gprs, xmms)
        });
        // A defect of the module, already reported: nobody could go on, and the program ends with its tracer.
        let result = catch_unwind(call).unwrap_or_else(|_| std::process::exit(70));
        if let Some(difference) = platform.difference() {
            eprintln!("swtdx: {}", crate::run::differ(&difference));
            std::process::exit(70);
        }
        hardware.arm_timer(lp as u32, u64::MAX);
        let result = result.map(|()| registers);
        if done.send(Served { lp, thread, result }).is_err() {
            return;
        }
    }
}
