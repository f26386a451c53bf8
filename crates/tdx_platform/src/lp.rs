//! Logical processors that take SEAMCALL, and memory as the host reaches it.

use std::sync::Arc;

use coco_regs::{ExitKind, ExitWords, GprFile, XmmFile};
use tdx_abi::{LeafWord, Status};
use tdx_call::{
    HostMemory, LastExit, NoSeam, OutsideMemory, SeamcallLp, TdvprAndFlags, TdxModuleArgs, Traffic,
};
use tdx_module::LpId;
use x86_arch::{Gpr, Hkid, Hpa, KeyedHpa};

use crate::Platform;

/// A field of the argument block.
type Field = fn(&mut TdxModuleArgs) -> &mut u64;

/// Registers that cross a call, with their places in the argument block.
pub(crate) struct Moved {
    pub(crate) input: &'static [(Gpr, Field)],
    pub(crate) output: &'static [(Gpr, Field)],
}

/// The thirteen registers; the first six are those of the short forms.
const REGISTERS: [(Gpr, Field); 13] = [
    (Gpr::Rcx, |a| &mut a.rcx),
    (Gpr::Rdx, |a| &mut a.rdx),
    (Gpr::R8, |a| &mut a.r8),
    (Gpr::R9, |a| &mut a.r9),
    (Gpr::R10, |a| &mut a.r10),
    (Gpr::R11, |a| &mut a.r11),
    (Gpr::R12, |a| &mut a.r12),
    (Gpr::R13, |a| &mut a.r13),
    (Gpr::R14, |a| &mut a.r14),
    (Gpr::R15, |a| &mut a.r15),
    (Gpr::Rbx, |a| &mut a.rbx),
    (Gpr::Rdi, |a| &mut a.rdi),
    (Gpr::Rsi, |a| &mut a.rsi),
];

pub(crate) fn registers(traffic: Traffic) -> Moved {
    let (all, six): (&'static [_], &'static [_]) = (&REGISTERS, &REGISTERS[..6]);
    match traffic {
        Traffic::In => Moved {
            input: six,
            output: &[],
        },
        Traffic::InOut => Moved {
            input: six,
            output: six,
        },
        Traffic::Saved => Moved {
            input: all,
            output: all,
        },
    }
}

/// One logical processor of a [`Platform`]: the direct way to its module.
pub struct PlatformLp {
    platform: Arc<Platform>,
    lp: LpId,
}

impl PlatformLp {
    pub(crate) fn new(platform: Arc<Platform>, lp: LpId) -> PlatformLp {
        PlatformLp { platform, lp }
    }
    pub fn id(&self) -> u32 {
        self.lp.0
    }
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// SEAMCALL on whole register files, as the instruction does it: RAX is leaf and status.
    pub fn raw_seamcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), NoSeam> {
        let done = self.platform.module.seamcall(self.lp, gprs, xmms);
        done.map_err(|_stopped| NoSeam::VmFailInvalid)
    }
}

impl SeamcallLp for PlatformLp {
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        let moved = registers(traffic);
        let mut gprs = GprFile::default();
        gprs[Gpr::Rax] = leaf.0;
        for &(reg, field) in moved.input {
            gprs[reg] = *field(args);
        }
        self.raw_seamcall(&mut gprs, &mut XmmFile::default())?;
        for &(reg, field) in moved.output {
            *field(args) = gprs[reg];
        }
        Ok(Status(gprs[Gpr::Rax]))
    }

    fn vp_enter(
        &mut self,
        tdvpr: TdvprAndFlags,
        gprs: &mut GprFile,
        xmms: Option<&mut XmmFile>,
        last: &mut LastExit,
    ) -> Result<ExitWords, NoSeam> {
        let mut crossing = GprFile::default();
        let mut vectors = XmmFile::default();
        if let LastExit::Tdvmcall { mask } = *last {
            crossing = *gprs;
            for (i, word) in crossing.0.iter_mut().enumerate() {
                *word = if mask >> i & 1 != 0 { *word } else { 0 };
            }
            if let Some(xmms) = &xmms {
                vectors = **xmms;
            }
        }
        crossing[Gpr::Rax] = 0;
        crossing[Gpr::Rcx] = tdvpr.0;
        self.raw_seamcall(&mut crossing, &mut vectors)?;

        let words = ExitWords {
            rax: Status(crossing[Gpr::Rax]),
            rcx: crossing[Gpr::Rcx],
            rdx: crossing[Gpr::Rdx],
            r8: crossing[Gpr::R8],
            r9: crossing[Gpr::R9],
        };
        match words.kind() {
            ExitKind::NotEntered => {}
            ExitKind::Asynchronous => *last = LastExit::Asynchronous,
            ExitKind::Tdvmcall => {
                let mask = coco_regs::tdx::TdvmcallMask::of_exit(words.rcx);
                for reg in mask.gprs().iter() {
                    gprs[reg] = crossing[reg];
                }
                if let Some(xmms) = xmms {
                    for xmm in mask.xmms().iter() {
                        xmms.0[xmm.index()] = vectors.0[xmm.index()];
                    }
                }
                *last = LastExit::Tdvmcall { mask: mask.bits() };
            }
        }
        Ok(words)
    }
}

/// A platform's memory under the host's own key.
#[derive(Clone)]
pub struct PlatformMemory {
    platform: Arc<Platform>,
}

impl PlatformMemory {
    pub(crate) fn new(platform: Arc<Platform>) -> PlatformMemory {
        PlatformMemory { platform }
    }
    fn inside(&self, at: Hpa, len: usize) -> Result<KeyedHpa, OutsideMemory> {
        let size: u64 = self.platform.hardware().config().ram.iter().sum();
        match at.checked_add(len as u64) {
            Some(end) if end.raw() <= size => Ok(KeyedHpa::new(at, Hkid(0))),
            _ => Err(OutsideMemory(at)),
        }
    }
}

/// A machine check of the host itself is reported as memory that may not be touched: real hosts crash here.
impl HostMemory for PlatformMemory {
    fn read(&self, from: Hpa, to: &mut [u8]) -> Result<(), OutsideMemory> {
        let from = self.inside(from, to.len())?;
        let done = self.platform.hardware().memory.read(from, to);
        done.map_err(|e| OutsideMemory(e.0))
    }
    fn write(&self, to: Hpa, from: &[u8]) -> Result<(), OutsideMemory> {
        let to = self.inside(to, from.len())?;
        let done = self.platform.hardware().memory.write(to, from);
        done.map_err(|e| OutsideMemory(e.0))
    }
    fn clear_page(&self, page: Hpa) -> Result<(), OutsideMemory> {
        let page = self.inside(page.page(), 4096)?;
        self.platform
            .hardware()
            .memory
            .write_direct(page, &[0; 4096]);
        Ok(())
    }
}
