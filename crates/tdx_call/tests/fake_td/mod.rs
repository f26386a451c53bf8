//! A stand-in for module and guest: the register rules of TDH.VP.ENTER and nothing else (spec: vp-enter.md 4 and 6.1).
#![allow(dead_code)] // each test uses its part

use coco_regs::{GprFile, XmmFile};
use tdx_abi::Status;
use tdx_call::{NoSeam, SoftwareSeam};
use x86_arch::Gpr;

/// How the next TDH.VP.ENTER ends.
#[derive(Clone, Copy, Debug)]
pub enum Next {
    /// The guest executes TDG.VP.VMCALL with this RCX. An illegal one gets an answer and the guest exits by HLT.
    Tdvmcall(u64),
    /// An asynchronous exit with these RAX, RCX, RDX, R8, R9.
    Asynchronous([u64; 5]),
    /// An error before entry.
    Refused(Status),
    NoSeam(NoSeam),
}

/// A TD of one vCPU whose guest does what the test says.
#[derive(Clone, Debug)]
pub struct FakeTd {
    pub guest: GprFile,
    pub guest_xmm: XmmFile,
    pub no_rbp_mod: bool,
    pub next: Next,
    /// The guest waits in a TDVMCALL.
    pub waiting: bool,
    /// The VMM's registers at the last SEAMCALL.
    pub seen: GprFile,
    pub calls: u32,
}

impl FakeTd {
    pub const TDVPR: u64 = 0x7_0000;

    pub fn new(no_rbp_mod: bool) -> FakeTd {
        FakeTd {
            guest: GprFile(std::array::from_fn(|n| 0x6E57_0000 + n as u64)),
            guest_xmm: XmmFile(std::array::from_fn(|n| (0x6E57_u128 << 100) + n as u128)),
            no_rbp_mod,
            next: Next::Asynchronous([1, 0, 0, 0, 0x8000_0020]),
            waiting: false,
            seen: GprFile::default(),
            calls: 0,
        }
    }

    fn deliver(&mut self, gprs: &GprFile, xmms: &XmmFile) {
        if !std::mem::take(&mut self.waiting) {
            return;
        }
        let mask = self.guest[Gpr::Rcx];
        self.guest[Gpr::Rax] = 0;
        for n in 2..16 {
            if mask >> n & 1 != 0 {
                self.guest.0[n] = gprs.0[n];
            }
        }
        for n in 0..16 {
            if mask >> (16 + n) & 1 != 0 {
                self.guest_xmm.0[n] = xmms.0[n];
            }
        }
    }

    fn exit(&self, gprs: &mut GprFile, xmms: &mut XmmFile, words: [u64; 5]) {
        let (rsp, rbp) = (gprs[Gpr::Rsp], gprs[Gpr::Rbp]);
        *gprs = GprFile::default();
        *xmms = XmmFile::default();
        for (reg, word) in [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::R8, Gpr::R9]
            .into_iter()
            .zip(words)
        {
            gprs[reg] = word;
        }
        gprs[Gpr::Rsp] = rsp;
        let _ = rbp; // 1.5.01 zeroes RBP on asynchronous exits whatever NO_RBP_MOD says
    }
}

impl SoftwareSeam for FakeTd {
    fn seamcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), NoSeam> {
        self.calls += 1;
        self.seen = *gprs;
        assert_eq!(gprs[Gpr::Rax], 0, "TDH.VP.ENTER");
        assert_eq!(gprs[Gpr::Rcx], FakeTd::TDVPR);
        match self.next {
            Next::NoSeam(why) => return Err(why),
            Next::Refused(status) => gprs[Gpr::Rax] = status.0,
            Next::Asynchronous(words) => {
                self.deliver(gprs, xmms);
                self.exit(gprs, xmms, words);
            }
            Next::Tdvmcall(rcx) => {
                self.deliver(gprs, xmms);
                let refused = if self.no_rbp_mod { 0x33 } else { 0x13 };
                if rcx >> 32 != 0 || rcx & refused != 0 {
                    self.guest[Gpr::Rax] = 0xC000_0100_0000_0001;
                    self.exit(gprs, xmms, [12, 0, 0, 0, 0]);
                    return Ok(());
                }
                self.guest[Gpr::Rcx] = rcx;
                self.waiting = true;
                let rbp = gprs[Gpr::Rbp];
                self.exit(gprs, xmms, [77, rcx, 0, 0, 0]);
                if self.no_rbp_mod {
                    gprs[Gpr::Rbp] = rbp;
                }
                for n in 2..16 {
                    if rcx >> n & 1 != 0 {
                        gprs.0[n] = self.guest.0[n];
                    }
                }
                for n in 0..16 {
                    if rcx >> (16 + n) & 1 != 0 {
                        xmms.0[n] = self.guest_xmm.0[n];
                    }
                }
            }
        }
        Ok(())
    }
}
