//! Running a vCPU until something needs its caller (spec: vp-enter.md 11 and 12; linux.md 3.2).

use std::collections::BTreeMap;

use coco_regs::tdx::{self, TdvmcallMask};
use coco_regs::{Exit, ExitKind, ExitWords};
use tdx_abi::{HostLeaf, Status};
use tdx_call::{HostMemory, Leaf, SeamcallLp};
use x86_arch::{ExitReason, Gpa};

use crate::exit_log::{ExitLog, LoggedExit};
use crate::fault::{Faulted, MemoryFault};
use crate::tdvmcall::{self, Answer, FatalError, MapGpa, Request, Services, SubFunction, status};
use crate::{GuestMemory, Host, HostError, Td, Vcpu};

/// How often an entry that met a held lock is tried again before it is an error.
const BUSY_TRIES: u32 = 1_000_000;
/// How many faults in a row may turn out to be on pages that are there, before the vCPU is taken to be stuck.
const PRESENT_FAULTS: u32 = 10_000;
/// The largest GetQuote buffer that is served, as Linux guests use (128 KiB), with room to grow.
const MAX_QUOTE: u64 = 1 << 20;

/// Why a vCPU stopped. After the first four it may run again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// A host event: an interrupt with its vector, an NMI, the end of its time slice.
    Interrupted { vector: Option<u8> },
    /// TDVMCALL HLT: it waits for an interrupt, or for ever if `blocked` (NMI apart).
    Halted { blocked: bool },
    /// The devices have something for their owner ([`Services::wants_owner`]).
    Devices,
    /// A DEBUG TD stopped for its debugger: the exit reason, qualification and interruption information.
    Debug {
        reason: ExitReason,
        qualification: u64,
        interruption: u64,
    },
    /// The guest's last words.
    FatalError(FatalError),
    /// Triple fault: this vCPU is dead.
    TripleFault,
    /// An access that nothing answers.
    MemoryFault(MemoryFault),
    /// The module ended the vCPU or the TD.
    Dead { status: Status, words: ExitWords },
    /// An exit that no host expects of a production TD.
    Unexpected { words: ExitWords },
}

/// What a vCPU's exits were, by kind.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RunStats {
    /// TDH.VP.ENTER calls.
    pub entries: u64,
    /// Asynchronous exits by basic exit reason.
    pub exits: BTreeMap<u16, u64>,
    /// TDVMCALLs by sub-function; 0 stands for the hypervisor's own hypercalls.
    pub tdvmcalls: BTreeMap<u64, u64>,
    /// The last exits one by one, while somebody wants to know.
    pub log: Option<ExitLog>,
}

/// What is needed to run vCPUs of one TD on one processor.
#[derive(Debug)]
pub struct Run<'a, M, L, S: ?Sized> {
    pub host: &'a Host<M>,
    pub td: &'a Td,
    pub lp: &'a mut L,
    /// Index of `lp` in the host's list.
    pub on: usize,
    pub services: &'a mut S,
    pub stats: &'a mut RunStats,
}

impl<M: HostMemory, L: SeamcallLp, S: Services + ?Sized> Run<'_, M, L, S> {
    /// Runs the vCPU until it stops. TDVMCALLs and page faults are served on the way.
    pub fn run(&mut self, vcpu: &mut Vcpu) -> Result<Stop, HostError> {
        if !self.td.is_finalized() {
            return Err(HostError::WrongStage {
                wanted: "finalized",
            });
        }
        loop {
            let words = self.enter(vcpu)?;
            if let Some(log) = &mut self.stats.log {
                log.push(LoggedExit {
                    vcpu: vcpu.index(),
                    words,
                    function: (words.kind() == ExitKind::Tdvmcall)
                        .then(|| tdvmcall::sub_function(&vcpu.gprs, words.rcx as u32)),
                });
            }
            let stop = match words.kind() {
                ExitKind::Tdvmcall => {
                    vcpu.present_faults = 0;
                    self.tdvmcall(vcpu, words)?
                }
                _ => self.asynchronous(vcpu, words)?,
            };
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }

    /// One entry that got in; held locks are tried again.
    fn enter(&mut self, vcpu: &mut Vcpu) -> Result<ExitWords, HostError> {
        for _ in 0..BUSY_TRIES {
            self.stats.entries += 1;
            let words = vcpu.enter(self.lp, self.on, 0)?;
            if words.kind() != ExitKind::NotEntered {
                return Ok(words);
            }
            if words.rax.code() != Status::OPERAND_BUSY {
                return Err(refused(words));
            }
            std::thread::yield_now();
        }
        Err(HostError::Refused {
            leaf: Leaf::Host(HostLeaf::VP_ENTER),
            status: Status::OPERAND_BUSY,
            rcx: 0,
            rdx: 0,
        })
    }

    fn asynchronous(
        &mut self,
        vcpu: &mut Vcpu,
        words: ExitWords,
    ) -> Result<Option<Stop>, HostError> {
        let reason = ExitReason(words.exit_reason() as u16);
        *self.stats.exits.entry(reason.0).or_default() += 1;
        if words.rax.raw() & (Status::FATAL | Status::NON_RECOVERABLE) != 0 {
            return Ok(Some(match reason {
                ExitReason::TRIPLE_FAULT => Stop::TripleFault,
                _ => Stop::Dead {
                    status: words.rax.code(),
                    words,
                },
            }));
        }
        if words.rax.code() != Status::SUCCESS {
            // Trap-like exits with news for the host alone: the guest has its answer already.
            return Ok(match words.rax.code() {
                Status::CROSS_TD_TRAP | Status::HOST_PRIORITY_BUSY_TIMEOUT => None,
                _ => Some(Stop::Unexpected { words }),
            });
        }
        Ok(match reason {
            ExitReason::INTERRUPT => Some(Stop::Interrupted {
                vector: Some(words.r9 as u8),
            }),
            ExitReason::EPT_VIOLATION => self.ept_violation(vcpu, words)?,
            // An NMI (type 2 in bits 10:8) was the host's; other exceptions stop a DEBUG TD.
            ExitReason::EXCEPTION_OR_NMI if words.r9 >> 8 & 7 == 2 => {
                Some(Stop::Interrupted { vector: None })
            }
            ExitReason::SMI_OTHER_EVENT
            | ExitReason::INIT_EVENT
            | ExitReason::C_STATE_SMI
            | ExitReason::BUS_LOCK
            | ExitReason::NOTIFICATION => Some(Stop::Interrupted { vector: None }),
            reason if self.td.config().is_debug() => Some(Stop::Debug {
                reason,
                qualification: words.rcx,
                interruption: words.r9,
            }),
            _ => Some(Stop::Unexpected { words }),
        })
    }

    fn ept_violation(
        &mut self,
        vcpu: &mut Vcpu,
        words: ExitWords,
    ) -> Result<Option<Stop>, HostError> {
        let gpa = Gpa::new(words.r8);
        let fault = match self.td.ept_violation(self.host, self.lp, gpa, words.rdx)? {
            Faulted::Served => {
                vcpu.present_faults = 0;
                return Ok(None);
            }
            Faulted::Present if vcpu.present_faults < PRESENT_FAULTS => {
                vcpu.present_faults += 1;
                return Ok(None);
            }
            Faulted::Present => MemoryFault::Stuck { gpa: gpa.page() },
            Faulted::Fault(fault) => fault,
        };
        if let MemoryFault::WrongHalf { gpa, to_shared } = fault
            && self.services.convert_on_fault(vcpu.index(), gpa, to_shared)
        {
            let page = x86_arch::PAGE_SIZE;
            match to_shared {
                true => self.td.make_shared(self.host, self.lp, gpa, page)?,
                false => self.td.make_private(self.host, self.lp, gpa, page)?,
            }
            return Ok(None);
        }
        Ok(Some(Stop::MemoryFault(fault)))
    }

    fn tdvmcall(&mut self, vcpu: &mut Vcpu, words: ExitWords) -> Result<Option<Stop>, HostError> {
        let mask = TdvmcallMask::of_exit(words.rcx);
        let function = tdvmcall::sub_function(&vcpu.gprs, mask.bits());
        *self.stats.tdvmcalls.entry(function.0).or_default() += 1;
        if let Exit::Tdvmcall(mut call) = Exit::new(words, &mut vcpu.gprs, None)
            && let Err(malformed) = tdx::Request::of(&call)
        {
            // Where R10 is hidden the guest cannot be told; it goes on with its own registers.
            malformed.answer(&mut call);
            return Ok(None);
        }
        let shared_bit = self.td.config().shared_bit();
        let request = match tdvmcall::read(&vcpu.shown(), shared_bit) {
            Ok(request) => request,
            Err(refusal) => {
                tdvmcall::write(&mut vcpu.shown(), refusal.answer());
                return Ok(None);
            }
        };
        let mut stop = None;
        let index = vcpu.index();
        let answer = match tdvmcall::serve(self.services, index, &request) {
            Some(answer) => answer,
            None => match request {
                Request::Hlt { blocked } => {
                    let waits = !blocked && vcpu.interrupt_waits(self.host, self.lp)?;
                    stop = (!waits).then_some(Stop::Halted { blocked });
                    Answer::Status(status::SUCCESS)
                }
                Request::FatalError(report) => {
                    stop = Some(Stop::FatalError(report));
                    Answer::Status(status::SUCCESS)
                }
                Request::MapGpa(wish) => self.map_gpa(index, wish)?,
                Request::GetQuote { gpa, size } => self.get_quote(index, gpa, size)?,
                // Served above.
                _ => Answer::Status(status::SUBFUNC_UNSUPPORTED),
            },
        };
        tdvmcall::write(&mut vcpu.shown(), answer);
        if stop.is_none() && self.services.wants_owner() {
            stop = Some(Stop::Devices);
        }
        Ok(stop)
    }

    /// Converts piece by piece; RETRY when an event waits that the guest should see first.
    fn map_gpa(&mut self, vcpu: u32, wish: MapGpa) -> Result<Answer, HostError> {
        let shared_bit = self.td.config().shared_bit();
        let with_bit = |gpa: Gpa| match wish.to_shared {
            true => gpa.raw() | shared_bit,
            false => gpa.raw(),
        };
        let mut rest = Some(wish);
        while let Some(wish) = rest {
            // Outside RAM everything is shared, and stays so: no need to go through terabytes of it.
            if wish.to_shared && !self.td.touches_ram(wish.gpa, wish.size) {
                break;
            }
            let (piece, next) = wish.split();
            let refused = match self.services.map_gpa(vcpu, piece) {
                Err(status) => Some(status),
                Ok(()) => self.convert(piece)?.err(),
            };
            if let Some(status) = refused {
                return Ok(Answer::StatusAndValue(status, with_bit(piece.gpa)));
            }
            match next {
                Some(next) if self.services.event_pending(vcpu) => {
                    return Ok(Answer::StatusAndValue(status::RETRY, with_bit(next.gpa)));
                }
                next => rest = next,
            }
        }
        Ok(Answer::Status(status::SUCCESS))
    }

    /// `Err` inside is R10 of the answer: the range is no RAM of this TD.
    fn convert(&mut self, piece: MapGpa) -> Result<Result<(), u64>, HostError> {
        let MapGpa {
            gpa,
            size,
            to_shared,
        } = piece;
        let done = match to_shared {
            true => self.td.make_shared(self.host, self.lp, gpa, size),
            false => self.td.make_private(self.host, self.lp, gpa, size),
        };
        match done {
            Ok(()) => Ok(Ok(())),
            Err(HostError::BadRange { .. }) => {
                // Device memory is shared already, and stays so.
                let ram = self.td.touches_ram(gpa, size);
                Ok(match to_shared && !ram {
                    true => Ok(()),
                    false => Err(status::INVALID_OPERAND),
                })
            }
            Err(failure) => Err(failure),
        }
    }

    fn get_quote(&mut self, vcpu: u32, gpa: Gpa, size: u64) -> Result<Answer, HostError> {
        if size > MAX_QUOTE {
            return Ok(Answer::Status(status::INVALID_OPERAND));
        }
        let memory = GuestMemory {
            host: self.host,
            td: self.td,
        };
        let mut buffer = vec![0; size as usize];
        let refused = match memory.read(gpa, &mut buffer) {
            Ok(()) => self.services.get_quote(vcpu, &mut buffer).err(),
            Err(HostError::BadRange { .. }) => Some(status::INVALID_OPERAND),
            Err(failure) => return Err(failure),
        };
        if refused.is_none() {
            memory.write(gpa, &buffer)?;
        }
        Ok(Answer::Status(refused.unwrap_or(status::SUCCESS)))
    }
}

impl RunStats {
    /// Counts what another vCPU did, too.
    pub fn add(&mut self, other: &RunStats) {
        self.entries += other.entries;
        for (&reason, count) in &other.exits {
            *self.exits.entry(reason).or_default() += count;
        }
        for (&function, count) in &other.tdvmcalls {
            *self.tdvmcalls.entry(function).or_default() += count;
        }
    }

    /// TDVMCALLs by name, for people.
    pub fn named_tdvmcalls(&self) -> impl Iterator<Item = (SubFunction, u64)> {
        self.tdvmcalls.iter().map(|(&f, &n)| (SubFunction(f), n))
    }
}

fn refused(words: ExitWords) -> HostError {
    HostError::Refused {
        leaf: Leaf::Host(HostLeaf::VP_ENTER),
        status: words.rax,
        rcx: words.rcx,
        rdx: words.rdx,
    }
}
