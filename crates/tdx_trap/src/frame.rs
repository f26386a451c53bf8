//! The registers of a thread as the kernel put them into its signal frame.
#![expect(
    unsafe_code,
    reason = "the signal frame is the kernel's, reached by pointers"
)]

use coco_regs::{GprFile, XmmFile};
use libc::{c_int, ucontext_t};
use x86_arch::Gpr;

/// A signal frame while its handler runs: nothing else refers to it.
pub(crate) struct Frame<'a>(pub(crate) &'a mut ucontext_t);

/// Where the kernel keeps each register, in encoding order.
const GREGS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// CF, PF, AF, ZF, SF and OF: a VMX instruction clears them, and sets CF for VMfailInvalid.
const ARITHMETIC_FLAGS: i64 = 0x8D5;
const CARRY: i64 = 1;

/// Offsets in the floating-point part of the frame: an XSAVE image in standard form (SDM vol. 1, 13.4), whose bytes
/// 464.. the kernel marks when the extended part is there.
const FCW: usize = 0;
const MXCSR: usize = 24;
const XMM: usize = 160;
const MARK: usize = 464;
const MARK_VALUE: u32 = 0x4650_5853;
const XSTATE_BV: usize = 512;
const X87_AND_SSE: u64 = 3;

impl Frame<'_> {
    fn greg(&mut self, which: c_int) -> &mut i64 {
        &mut self.0.uc_mcontext.gregs[which as usize]
    }
    pub(crate) fn rip(&mut self) -> usize {
        *self.greg(libc::REG_RIP) as usize
    }

    /// The four bytes at RIP, if they can be read.
    pub(crate) fn code(&mut self) -> Option<[u8; 4]> {
        if let Some(known) = tdx_call::instruction::fixup_of(self.rip()) {
            // SAFETY: the address is that of an instruction of a stub, in readable code.
            return Some(unsafe { *(known.instruction as *const [u8; 4]) });
        }
        let mut bytes = [0; 4];
        let local = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let remote = libc::iovec {
            iov_base: self.rip() as *mut _,
            iov_len: bytes.len(),
        };
        // SAFETY: the local side is four bytes of this frame; the kernel checks the remote side, which may be a wild
        // RIP or execute-only memory (then a plain read would fault again).
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
        (read == 4).then_some(bytes)
    }

    pub(crate) fn gprs(&mut self) -> GprFile {
        GprFile(GREGS.map(|which| *self.greg(which) as u64))
    }
    /// All but RSP, which no call changes.
    pub(crate) fn set_gprs(&mut self, file: &GprFile) {
        for (which, reg) in GREGS.into_iter().zip(Gpr::ALL) {
            if reg != Gpr::Rsp {
                *self.greg(which) = file[reg] as i64;
            }
        }
    }

    /// Goes on after the instruction, with CF as given and the other arithmetic flags clear.
    pub(crate) fn step_over(&mut self, carry: bool) {
        *self.greg(libc::REG_RIP) += 4;
        let flags = self.greg(libc::REG_EFL);
        *flags = *flags & !ARITHMETIC_FLAGS | if carry { CARRY } else { 0 };
    }
    /// Goes on at the fixup of a stub, with the exception vector in RAX.
    pub(crate) fn resume(&mut self, at: usize, vector: u64) {
        *self.greg(libc::REG_RIP) = at as i64;
        *self.greg(libc::REG_RAX) = vector as i64;
    }

    fn fp(&mut self) -> Option<*mut u8> {
        let fp: *mut u8 = self.0.uc_mcontext.fpregs.cast();
        (!fp.is_null()).then_some(fp)
    }
    pub(crate) fn xmms(&mut self) -> XmmFile {
        let mut file = XmmFile::default();
        if let Some(fp) = self.fp() {
            for (n, value) in file.0.iter_mut().enumerate() {
                // SAFETY: the image's legacy part has 512 bytes; XMM0 to XMM15 end at 416.
                *value = unsafe { fp.add(XMM + 16 * n).cast::<u128>().read_unaligned() };
            }
        }
        file
    }
    pub(crate) fn set_xmms(&mut self, file: &XmmFile) {
        let Some(fp) = self.fp() else { return };
        for (n, value) in file.0.iter().enumerate() {
            // SAFETY: as in `xmms`; the frame is ours while the handler runs.
            unsafe { fp.add(XMM + 16 * n).cast::<u128>().write_unaligned(*value) };
        }
        if let Some(xstate_bv) = self.xstate_bv() {
            // SAFETY: the mark says that the extended part follows; its header begins with XSTATE_BV.
            unsafe { xstate_bv.write_unaligned(xstate_bv.read_unaligned() | X87_AND_SSE) };
        }
    }

    /// What a TD exit leaves of the extended state: everything but XMM0 to XMM15 initial.
    pub(crate) fn scrub_extended(&mut self) {
        let Some(fp) = self.fp() else { return };
        // SAFETY: the legacy part has 512 bytes: x87 up to 24, MXCSR, its mask, and the x87 registers from 32 to 160.
        unsafe {
            fp.write_bytes(0, MXCSR);
            fp.add(FCW).cast::<u16>().write_unaligned(0x37F);
            fp.add(MXCSR).cast::<u32>().write_unaligned(0x1F80);
            fp.add(32).write_bytes(0, XMM - 32);
        }
        if let Some(xstate_bv) = self.xstate_bv() {
            // SAFETY: as in `set_xmms`. A clear bit makes XRSTOR load the initial state.
            unsafe { xstate_bv.write_unaligned(X87_AND_SSE) };
        }
    }

    fn xstate_bv(&mut self) -> Option<*mut u64> {
        let fp = self.fp()?;
        // SAFETY: the mark lies in the legacy part; the header behind it is there when the mark is.
        unsafe {
            let marked = fp.add(MARK).cast::<u32>().read_unaligned() == MARK_VALUE;
            marked.then(|| fp.add(XSTATE_BV).cast())
        }
    }
}
