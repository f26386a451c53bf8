//! One number for all that leaves can change: a refused call leaves it alone, but for what its specification lets stay.

use crate::machine::Machine;
use crate::module::Module;
use crate::pamt::PageUse;
use crate::td::Td;
use crate::vp::Vp;
use core::sync::atomic::Ordering;
use x86_arch::Hkid;

/// FNV-1a over 64-bit words.
struct Hash(u64);

impl Hash {
    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01B3);
        self.0 ^= self.0 >> 29;
    }
}

impl<M: Machine> Module<M> {
    /// The state of module, PAMT, key-ownership table, TDs, Secure EPTs and vCPUs in one number. Lock words,
    /// host-priority marks, statistics and memory contents are not part of it. No call may be in progress.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Hash(0xCBF2_9CE4_8422_2325);
        hash.add(self.sys_state() as u64);
        hash.add(self.num_init_lps.load(Ordering::Acquire) as u64);
        hash.add(self.pkg_config_bitmap.load(Ordering::Acquire) as u64);
        if let Ok(kot) = self.kot.shared() {
            let sys = self.sys.get();
            let last = sys.map_or(0, |sys| sys.hkid_max);
            for hkid in 0..=last {
                hash.add(kot.state(Hkid(hkid)) as u64);
                hash.add(kot.wbinvd_bitmap(Hkid(hkid)) as u64);
            }
        }
        let Some(pamt) = self.pamt.get() else {
            return hash.0;
        };
        for tdmr in pamt.tdmrs() {
            hash.add(tdmr.initialized());
        }
        pamt.for_each(|hpa, size, entry| {
            let Some(page) = entry.lock().peek() else {
                return;
            };
            let untouched = entry.owner().raw() == 0 && entry.bepoch() == 0;
            if untouched && matches!(*page, PageUse::Free | PageUse::Reserved) {
                // Entries come into being when they are looked at.
                return;
            }
            hash.add(hpa.raw() | size as u64);
            hash.add(page.page_type() as u64);
            hash.add(entry.owner().raw());
            hash.add(entry.bepoch());
            match &*page {
                PageUse::Tdr(td) => add_td(&mut hash, td),
                PageUse::Tdvpr(vp) => add_vp(&mut hash, vp),
                _ => {}
            }
        });
        hash.0
    }
}

fn add_td(hash: &mut Hash, td: &Td) {
    hash.add(td.is_fatal() as u64);
    hash.add(td.life_cycle as u64);
    hash.add(td.hkid.0 as u64);
    hash.add(td.pkg_config_bitmap as u64);
    hash.add(td.chldcnt());
    hash.add(td.op_state() as u64);
    hash.add(td.num_vcpus.load(Ordering::Acquire) as u64);
    hash.add(td.num_assoc_vcpus.load(Ordering::Acquire) as u64);
    hash.add(td.epoch.current());
    hash.add(td.epoch.references(0) as u64);
    hash.add(td.epoch.references(1) as u64);
    hash.add(td.td_ctls.load(Ordering::Acquire));
    hash.add(td.config.attributes);
    for page in &td.tdcx {
        hash.add(page.raw());
    }
    for word in 0..6 {
        hash.add(td.measurement.mrtd().word(word));
    }
    for vm in 0..4 {
        if let Some(root) = td.sept.root(vm) {
            root.entries()
                .for_each(|entry| hash.add(entry.unlocked().0));
        }
        td.sept.for_each_page(vm, |hpa, page| {
            hash.add(hpa.raw());
            page.entries()
                .for_each(|entry| hash.add(entry.unlocked().0));
        });
    }
}

fn add_vp(hash: &mut Hash, vp: &Vp) {
    hash.add(vp.state() as u64);
    hash.add(vp.assoc_lpid() as u64);
    for page in &vp.pages {
        hash.add(page.raw());
    }
    if let Some(data) = vp.data() {
        hash.add(data.index as u64);
        hash.add(data.epoch);
    }
}
