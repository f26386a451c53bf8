//! Calls served in software, by whatever plays the processor: no instruction, no fault.

use coco_regs::{ExitKind, ExitWords, GprFile, XmmFile};
use tdx_abi::{LeafWord, Status};
use x86_arch::Gpr;

use crate::{NoSeam, SeamcallLp, TdcallCpu, TdxModuleArgs, Traffic, VpEntry};

/// What executes SEAMCALL in software: a simulated processor, or a test's.
pub trait SoftwareSeam {
    /// The instruction on all registers; RSP is not used. Nothing changes when it reaches no module.
    fn seamcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), NoSeam>;
}

/// What executes TDCALL in software.
pub trait SoftwareTd {
    /// The instruction on all registers; RSP is not used. Nothing changes when it reaches no module.
    fn tdcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), NoSeam>;
}

/// Calls a processor in software directly, with the traffic of the machine code in [`crate::instruction`].
#[derive(Clone, Debug)]
pub struct Direct<S>(pub S);

impl<S: SoftwareSeam> SeamcallLp for Direct<S> {
    fn seamcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        let serve = |gprs: &mut GprFile, xmms: &mut XmmFile| self.0.seamcall(gprs, xmms);
        call(serve, leaf, args, traffic)
    }

    fn vp_enter(&mut self, entry: &mut VpEntry<'_>) -> Result<Status, NoSeam> {
        let owed = entry.owed();
        let mut gprs = GprFile::default();
        let mut xmms = XmmFile::default();
        gprs[Gpr::Rcx] = entry.tdvpr().0;
        let (file, vectors) = entry.files();
        for reg in owed.gprs().iter() {
            gprs[reg] = file[reg];
        }
        if let Some(vectors) = vectors {
            for xmm in owed.xmms().iter() {
                xmms.0[xmm.index()] = vectors.0[xmm.index()];
            }
        }
        if let Err(why) = self.0.seamcall(&mut gprs, &mut xmms) {
            entry.exited(ExitWords {
                rax: why.status(),
                ..Default::default()
            });
            return Err(why);
        }
        let words = ExitWords {
            rax: Status(gprs[Gpr::Rax]),
            rcx: gprs[Gpr::Rcx],
            rdx: gprs[Gpr::Rdx],
            r8: gprs[Gpr::R8],
            r9: gprs[Gpr::R9],
        };
        let status = entry.exited(words);
        if words.kind() == ExitKind::Tdvmcall {
            let mask = entry.owed();
            let (file, vectors) = entry.files();
            for reg in mask.gprs().iter() {
                file[reg] = gprs[reg];
            }
            if let Some(vectors) = vectors {
                for xmm in mask.xmms().iter() {
                    vectors.0[xmm.index()] = xmms.0[xmm.index()];
                }
            }
        }
        Ok(status)
    }
}

impl<S: SoftwareTd> TdcallCpu for Direct<S> {
    fn tdcall(
        &mut self,
        leaf: LeafWord,
        args: &mut TdxModuleArgs,
        traffic: Traffic,
    ) -> Result<Status, NoSeam> {
        let serve = |gprs: &mut GprFile, xmms: &mut XmmFile| self.0.tdcall(gprs, xmms);
        call(serve, leaf, args, traffic)
    }
}

/// One of the kernel's variants: the first six registers of the block, or all.
fn call(
    mut serve: impl FnMut(&mut GprFile, &mut XmmFile) -> Result<(), NoSeam>,
    leaf: LeafWord,
    args: &mut TdxModuleArgs,
    traffic: Traffic,
) -> Result<Status, NoSeam> {
    let crossing = match traffic {
        Traffic::In | Traffic::InOut => 6,
        Traffic::Saved => TdxModuleArgs::REGS.len(),
    };
    let mut gprs = GprFile::default();
    for (reg, value) in TdxModuleArgs::REGS
        .into_iter()
        .zip(args.to_array())
        .take(crossing)
    {
        gprs[reg] = value;
    }
    gprs[Gpr::Rax] = leaf.0;
    serve(&mut gprs, &mut XmmFile::default())?;
    if traffic != Traffic::In {
        let mut values = args.to_array();
        for (reg, value) in TdxModuleArgs::REGS
            .into_iter()
            .zip(&mut values)
            .take(crossing)
        {
            *value = gprs[reg];
        }
        *args = TdxModuleArgs::from_array(values);
    }
    Ok(Status(gprs[Gpr::Rax]))
}
