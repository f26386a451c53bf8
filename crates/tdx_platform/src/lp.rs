//! Logical processors that take SEAMCALL, and memory as the host reaches it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use coco_regs::{GprFile, XmmFile};
use tdx_call::{HostMemory, NoSeam, OutsideMemory, SoftwareSeam};
use tdx_module::LpId;
use x86_arch::{Hkid, Hpa, KeyedHpa, RamPage};

use crate::Platform;

/// One logical processor of a [`Platform`], which executes SEAMCALL: [`tdx_call::Direct`] calls it directly.
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
}

impl SoftwareSeam for PlatformLp {
    fn seamcall(&mut self, gprs: &mut GprFile, xmms: &mut XmmFile) -> Result<(), NoSeam> {
        let observer = self.platform.module.machine().observer();
        if let Some(observer) = observer {
            observer.called(self.lp.0, gprs, xmms, self.platform.hardware().time());
        }
        let done = self.platform.module.seamcall(self.lp, gprs, xmms);
        if let Some(observer) = observer {
            observer.returned(self.lp.0, done.is_ok().then_some((&*gprs, &*xmms)));
        }
        done.map_err(|_stopped| NoSeam::VmFailInvalid)
    }
}

impl Drop for PlatformLp {
    fn drop(&mut self) {
        self.platform.taken[self.lp.0 as usize].store(false, SeqCst);
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
        let done = self.platform.module.machine().load(from, to);
        done.map_err(|e| OutsideMemory(e.0))
    }
    fn write(&self, to: Hpa, from: &[u8]) -> Result<(), OutsideMemory> {
        let to = self.inside(to, from.len())?;
        let done = self.platform.module.machine().store(to, from);
        done.map_err(|e| OutsideMemory(e.0))
    }
    fn set_bits(&self, at: Hpa, bits: u64) -> Result<u64, OutsideMemory> {
        let word = self.inside(at, 8)?;
        let whole = KeyedHpa::new(word.hpa.page(), word.hkid);
        let page = self.platform.hardware().memory.page(whole);
        let page = page.filter(|_| at.is_aligned(8)).ok_or(OutsideMemory(at))?;
        let offset = at.page_offset();
        let mut old = page.load_u64(offset);
        while let Err(now) = page.compare_exchange(offset, 8, old, old | bits) {
            old = now;
        }
        Ok(old)
    }
    fn clear_page(&self, page: Hpa) -> Result<(), OutsideMemory> {
        let page = self.inside(page.page(), 4096)?;
        self.platform.module.machine().clear_directly(page);
        Ok(())
    }
}
