//! A virtual processor: its pages, its register file, and what its last exit left to do.

use coco_regs::{ExitWords, GprFile, XmmFile};
use tdx_abi::HostLeaf;
use tdx_call::host::{
    tdh_vp_addcx, tdh_vp_create, tdh_vp_init, tdh_vp_init_apic, tdh_vp_rd, tdh_vp_wr,
};
use tdx_call::{FieldId, HostMemory, LastExit, Leaf, SeamcallLp, Tdvpr, TdvprAndFlags, VpEntry};
use x86_arch::Hpa;

use crate::field::vp;
use crate::seam::retry;
use crate::teardown::flush;
use crate::{Host, HostError, Lp, Shown, Td};

/// The notification vector of posted interrupts (Linux's POSTED_INTR_VECTOR).
pub const POSTED_VECTOR: u8 = 0xF2;
/// Offset of the ON bit (bit 0) in a posted-interrupt descriptor; the 256 PIR bits come before it.
const DESCRIPTOR_CONTROL: u64 = 32;

/// A vCPU. Whoever holds it may run it.
#[derive(Debug)]
pub struct Vcpu {
    index: u32,
    tdvpr: Tdvpr,
    descriptor: Hpa,
    pub(crate) gprs: GprFile,
    pub(crate) xmms: XmmFile,
    pub(crate) last: LastExit,
    /// The processor whose caches may hold this vCPU's state.
    lp: Option<usize>,
    /// EPT violations in a row on pages that were there.
    pub(crate) present_faults: u32,
}

impl Td {
    /// Adds a vCPU that starts with `initial_rcx` in RCX and R8 (`KVM_TDX_INIT_VCPU`). Its index counts from 0,
    /// and is its x2APIC ID.
    pub fn add_vcpu<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        on: usize,
        initial_rcx: u64,
    ) -> Result<Vcpu, HostError> {
        if self.is_finalized() {
            return Err(HostError::WrongStage {
                wanted: "being built",
            });
        }
        let lp = &mut lps.get_mut(on).ok_or(HostError::NoProcessors)?.seam;
        let tdr = self.tdr;
        let tdvpr = self.add_control_page(host, |page| tdh_vp_create(lp, Tdvpr(page), tdr))?;
        let tdvpr = Tdvpr(tdvpr);
        for _ in 1..host.info().tdvps_pages {
            self.add_control_page(host, |page| tdh_vp_addcx(lp, page, tdvpr))?;
        }
        let index = self.lock().vcpus_initialised;
        retry(|| match host.info().takes_x2apic_ids() {
            true => tdh_vp_init_apic(lp, tdvpr, initial_rcx, index.into()),
            false => tdh_vp_init(lp, tdvpr, initial_rcx),
        })?;
        self.lock().vcpus_initialised += 1;
        let prepared = self.prepare(host, lp, tdvpr, index, on);
        match &prepared {
            Ok(_) => self.lock().vcpus += 1,
            // It is on this processor now, and the TD cannot end before it has left.
            Err(_) => self.lock().stranded.push((tdvpr, on)),
        }
        prepared
    }

    /// What a vCPU needs beside its state: the shared half's EPT and posted interrupts.
    fn prepare<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        tdvpr: Tdvpr,
        index: u16,
        on: usize,
    ) -> Result<Vcpu, HostError> {
        let descriptor = host.zeroed_page()?;
        let root = {
            let mut memory = self.lock();
            memory.descriptors.push(descriptor);
            memory.shared.root()
        };
        let vcpu = Vcpu {
            index: index.into(),
            tdvpr,
            descriptor,
            gprs: GprFile::default(),
            xmms: XmmFile::default(),
            last: LastExit::default(),
            lp: Some(on),
            present_faults: 0,
        };
        vcpu.write_field(lp, vp::SHARED_EPTP, root.raw(), u64::MAX)?;
        vcpu.write_field(lp, vp::POSTED_VECTOR, POSTED_VECTOR.into(), 0xFFFF)?;
        vcpu.write_field(lp, vp::POSTED_DESCRIPTOR, descriptor.raw(), u64::MAX)?;
        let posted = vp::PIN_POSTED_INTERRUPTS;
        vcpu.write_field(lp, vp::PIN_CONTROLS, posted, posted)?;
        Ok(vcpu)
    }
}

impl Vcpu {
    /// The index that TDH.VP.INIT gave it.
    pub fn index(&self) -> u32 {
        self.index
    }
    pub fn tdvpr(&self) -> Tdvpr {
        self.tdvpr
    }
    /// The processor it last ran on, by index into the host's list.
    pub fn associated_lp(&self) -> Option<usize> {
        self.lp
    }
    /// Whether the next entry answers a TDVMCALL.
    pub fn last_exit(&self) -> LastExit {
        self.last
    }

    /// One TDH.VP.ENTER on processor `on` of the host's list, in place on this vCPU's registers.
    ///
    /// A vCPU that ran elsewhere must be [flushed](Self::leave_lp) there first.
    pub fn enter<L: SeamcallLp>(
        &mut self,
        lp: &mut L,
        on: usize,
        flags: u64,
    ) -> Result<ExitWords, HostError> {
        let tdvpr = TdvprAndFlags::new(self.tdvpr).with(flags);
        self.lp.get_or_insert(on);
        let mut entry = VpEntry::new(tdvpr, &mut self.gprs, Some(&mut self.xmms)).after(self.last);
        let entered = lp.vp_enter(&mut entry);
        self.last = entry.last();
        let words = entry.words();
        let leaf = Leaf::Host(HostLeaf::VP_ENTER);
        entered
            .map(|_| words)
            .map_err(|why| HostError::NoSeam { leaf, why })
    }

    /// TDH.VP.FLUSH on the processor it ran on, so that another one may run it.
    pub fn leave_lp<L: SeamcallLp>(&mut self, lp: &mut L) -> Result<(), HostError> {
        flush(self.tdvpr, lp)?;
        self.lp = None;
        Ok(())
    }

    /// The registers that the TDVMCALL it waits in shows; none after any other exit.
    pub fn shown(&mut self) -> Shown<'_> {
        let mask = match self.last {
            LastExit::Tdvmcall { mask } => mask,
            LastExit::Asynchronous => 0,
        };
        Shown::new(&mut self.gprs, mask)
    }

    /// TDH.VP.RD of a metadata field.
    pub fn read_field<L: SeamcallLp>(&self, lp: &mut L, id: u64) -> Result<u64, HostError> {
        retry(|| tdh_vp_rd(lp, self.tdvpr, FieldId(id)))
    }

    /// TDH.VP.WR of a metadata field: the bits of `value` under `mask`. Returned: the value before.
    pub fn write_field<L: SeamcallLp>(
        &self,
        lp: &mut L,
        id: u64,
        value: u64,
        mask: u64,
    ) -> Result<u64, HostError> {
        retry(|| tdh_vp_wr(lp, self.tdvpr, FieldId(id), value, mask))
    }

    /// Requests an NMI (PEND_NMI); several before it is taken are one.
    pub fn inject_nmi<L: SeamcallLp>(&self, lp: &mut L) -> Result<(), HostError> {
        self.write_field(lp, vp::PEND_NMI, 1, 1).map(|_| ())
    }

    /// Posts an interrupt in the descriptor; the processor takes it in when the vCPU runs. Returned: whether a
    /// notification is due (the ON bit was clear).
    pub fn post_interrupt<M: HostMemory>(
        &self,
        host: &Host<M>,
        vector: u8,
    ) -> Result<bool, HostError> {
        post(host, self.descriptor, vector)
    }

    /// Where the descriptor lies, for a poster that does not hold the vCPU.
    pub fn descriptor(&self) -> Hpa {
        self.descriptor
    }

    /// Whether an interrupt waits that would end a HLT with interrupts on.
    pub fn interrupt_waits<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
    ) -> Result<bool, HostError> {
        let control = host.read_u64(Hpa::new(self.descriptor.raw() + DESCRIPTOR_CONTROL))?;
        if control & 1 != 0 {
            return Ok(true);
        }
        Ok(self.read_field(lp, vp::VCPU_STATE_DETAILS)? & 1 != 0)
    }
}

/// Sets the PIR bit of `vector` and the ON bit of the descriptor at `at`, each in one atomic step: the vCPU may be
/// running, and others may be posting.
pub fn post<M: HostMemory>(host: &Host<M>, at: Hpa, vector: u8) -> Result<bool, HostError> {
    let word = Hpa::new(at.raw() + u64::from(vector / 64) * 8);
    host.set_bits(word, 1 << (vector % 64))?;
    let control = host.set_bits(Hpa::new(at.raw() + DESCRIPTOR_CONTROL), 1)?;
    Ok(control & 1 == 0)
}
