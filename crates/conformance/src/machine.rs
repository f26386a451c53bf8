//! The recording machine as the module's [`Machine`]: hardware, and guests that play a script.

use std::sync::Arc;

use tdx_module::{
    CpuidValue, KeyError, LpId, Machine, MachineCheck, PackageId, PendingEvents, PlatformInfo,
    xsave_size,
};
use x86_arch::vmx::Vcpu;
use x86_arch::{Hkid, KeyedHpa, SecondLevel};

use crate::player::World;

/// A module's view of the world that a trace describes.
pub(crate) struct ReplayMachine(pub(crate) Arc<World>);

impl Machine for ReplayMachine {
    fn platform(&self) -> PlatformInfo {
        self.0.hardware.info()
    }
    fn package(&self, lp: LpId) -> PackageId {
        PackageId(self.0.hardware.package(lp.0))
    }
    fn read(&self, from: KeyedHpa, to: &mut [u8]) -> Result<(), MachineCheck> {
        self.0.hardware.read(from.hpa.raw(), to);
        Ok(())
    }
    fn write(&self, to: KeyedHpa, from: &[u8]) -> Result<(), MachineCheck> {
        self.0.hardware.write(to.hpa.raw(), from);
        Ok(())
    }
    fn write_direct(&self, to: KeyedHpa, from: &[u8]) {
        self.0.hardware.write(to.hpa.raw(), from);
    }
    fn flush_page(&self, _page: KeyedHpa) {}
    fn write_back_sub_block(&self, _lp: LpId, _index: u32) {}
    fn program_random_key(&self, _lp: LpId, _hkid: Hkid) -> Result<(), KeyError> {
        self.0.hardware.program_key()
    }
    fn cpuid(&self, lp: LpId, leaf: u32, subleaf: u32) -> CpuidValue {
        self.0.hardware.cpuid(lp.0, leaf, subleaf)
    }
    /// The reference recordings' CPUID does not depend on XCR0.
    fn xsave_size(&self, lp: LpId, subleaf: u32, xcr0: u64, xss: u64) -> u32 {
        match self.0.hardware.xsave_size_follows_xcr0() {
            true => xsave_size(|n| self.cpuid(lp, 0xD, n), subleaf, xcr0, xss),
            false => self.cpuid(lp, 0xD, subleaf).ebx,
        }
    }
    fn read_msr(&self, lp: LpId, msr: u32) -> u64 {
        self.0.hardware.read_msr(lp.0, msr)
    }
    fn write_msr(&self, lp: LpId, msr: u32, value: u64) {
        self.0.hardware.write_msr(lp.0, msr, value);
    }
    fn tsc(&self, _lp: LpId) -> u64 {
        self.0.hardware.tsc()
    }
    fn random(&self, _lp: LpId) -> Option<u64> {
        self.0.hardware.random()
    }
    fn pending_events(&self, lp: LpId) -> PendingEvents {
        self.0.hardware.pending(lp.0)
    }
    fn invalidate_translations(&self, _lp: LpId, _vpids: &[u16]) {}
    fn run(&self, lp: LpId, vcpu: &mut Vcpu, _second_level: &dyn SecondLevel) {
        self.0.run(lp, vcpu);
    }
}
