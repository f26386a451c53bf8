//! Linear to physical: the page walk (SDM volume 3, chapter 4) and the second level under it.

use crate::cpu::{Cpu, bits};
use crate::fault::Fault;
use crate::flags;
use x86_arch::{Access, Gpa, Hkid, Hpa, KeyedHpa, RamPage};

/// Page-fault error-code bits.
pub mod error {
    pub const P: u16 = 1;
    pub const W: u16 = 1 << 1;
    pub const U: u16 = 1 << 2;
    pub const RSVD: u16 = 1 << 3;
    pub const I: u16 = 1 << 4;
    pub const PK: u16 = 1 << 5;
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// Who accesses: what the current privilege level does, or the processor on its own behalf (descriptor tables,
/// TSS, IDT) whatever that level is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    Current,
    System,
}

/// Where a linear page lies.
pub struct Translated<P> {
    pub page: KeyedHpa,
    pub ram: Option<P>,
    pub gpa: Gpa,
    /// log2 of the smaller of both levels' page sizes.
    pub size: u8,
}

/// The result of the first level.
struct Walked {
    gpa: Gpa,
    size: u8,
}

/// A second-level translation.
pub struct Physical<P> {
    pub page: KeyedHpa,
    pub ram: Option<P>,
}

/// What the second level's refusal has to report.
#[derive(Clone, Copy)]
pub struct PhysicalAccess {
    pub linear: Option<u64>,
    pub access: Access,
    /// The access is the page walk's own.
    pub walk: bool,
    /// Qualification bits 11:9 when `walk` is false: user page, writable, execute-disabled.
    pub rights: u64,
}

impl<P: RamPage + 'static> Cpu<'_, P> {
    /// Translates the page of `linear` for an access, faulting as that access would.
    pub fn translate(
        &mut self,
        linear: u64,
        access: Access,
        actor: Actor,
    ) -> Result<Translated<P>, Fault> {
        let user = actor == Actor::Current && self.cpl == 3;
        let mut rights = 0;
        let walked = if self.paging() {
            self.walk(linear, access, user, actor, &mut rights)?
        } else {
            rights = 1 << 9 | 1 << 10;
            Walked {
                gpa: Gpa::new(linear & 0xFFFF_FFFF),
                size: 12,
            }
        };
        let physical = self.physical(
            walked.gpa,
            PhysicalAccess {
                linear: Some(linear),
                access,
                walk: false,
                rights,
            },
        )?;
        Ok(Translated {
            page: physical.page,
            ram: physical.ram,
            gpa: walked.gpa,
            size: walked.size,
        })
    }

    /// The second level of the 4 KiB page of `gpa`.
    pub fn physical(&mut self, gpa: Gpa, access: PhysicalAccess) -> Result<Physical<P>, Fault> {
        let page = gpa.page().raw();
        if let Some(entry) = self.tlb.physical(page) {
            let allowed = match access.access {
                Access::Read => entry.read,
                Access::Write => entry.write,
                Access::Execute => entry.execute,
            };
            if allowed {
                return Ok(Physical {
                    page: entry.page,
                    ram: entry.ram.clone(),
                });
            }
        }
        if !self.second_level_on() {
            let page = KeyedHpa::new(Hpa::new(page), Hkid(0));
            let ram = self.platform.page(page);
            return Ok(Physical { page, ram });
        }
        match self.platform.translate(Gpa::new(page), access.access) {
            Ok(mapping) => {
                let p = mapping.permissions;
                let ram = self.platform.page(mapping.page);
                self.tlb.fill_physical(
                    page,
                    mapping.page,
                    (p.read, p.write, p.execute),
                    ram.clone(),
                );
                Ok(Physical {
                    page: mapping.page,
                    ram,
                })
            }
            Err(fault) => Err(self.second_level_fault(gpa, access, fault)),
        }
    }

    fn page_fault(&mut self, linear: u64, error: u16) -> Fault {
        self.fault_address = linear;
        Fault::pf(error)
    }

    fn walk(
        &mut self,
        linear: u64,
        access: Access,
        user: bool,
        actor: Actor,
        rights_out: &mut u64,
    ) -> Result<Walked, Fault> {
        let cr0 = self.cr0();
        let cr4 = self.cr4();
        let nxe = self.efer() & bits::EFER_NXE != 0;
        let pae = cr4 & bits::CR4_PAE != 0;
        let write = access == Access::Write;
        let fetch = access == Access::Execute;
        let mut error = 0;
        if write {
            error |= error::W;
        }
        if user {
            error |= error::U;
        }
        if fetch && (nxe && pae || cr4 & bits::CR4_SMEP != 0) {
            error |= error::I;
        }

        // (entry address, its value) of each level used, the leaf last.
        let mut path = [(Gpa::new(0), 0u64); 5];
        let mut depth = 0;
        let mut writable = true;
        let mut user_page = true;
        let mut no_execute = false;
        let leaf_shift;
        let mut entry;

        let long = self.long_mode();
        let mut table;
        let mut shift;
        let wide = pae;
        if long {
            shift = if cr4 & bits::CR4_LA57 != 0 { 48 } else { 39 };
            table = self.vcpu.regs.cr3 & ADDRESS;
        } else if pae {
            let pdpte = self.vcpu.regs.pdpte[(linear >> 30 & 3) as usize];
            if pdpte & PRESENT == 0 {
                return Err(self.page_fault(linear, error));
            }
            shift = 21;
            table = pdpte & ADDRESS;
        } else {
            shift = 22;
            table = self.vcpu.regs.cr3 & 0xFFFF_F000;
        }
        loop {
            let (address, value) = if wide {
                let address = Gpa::new(table | (linear >> shift & 0x1FF) << 3);
                (address, self.read_entry(address, linear, 8)?)
            } else {
                let address = Gpa::new(table | (linear >> shift & 0x3FF) << 2);
                (address, self.read_entry(address, linear, 4)?)
            };
            entry = value;
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, error));
            }
            let leaf = shift == 12
                || entry & LARGE != 0
                    && if wide {
                        shift == 21 || shift == 30
                    } else {
                        cr4 & bits::CR4_PSE != 0
                    };
            if wide {
                let mut reserved = if nxe { 0 } else { NX };
                if !long {
                    reserved |= 0x7FF0_0000_0000_0000;
                }
                if leaf && shift == 30 {
                    reserved |= 0x3FFF_E000;
                } else if leaf && shift == 21 {
                    reserved |= 0x1F_E000;
                } else if shift >= 39 {
                    reserved |= LARGE;
                }
                if entry & reserved != 0 {
                    return Err(self.page_fault(linear, error | error::P | error::RSVD));
                }
                no_execute |= entry & NX != 0;
            } else if leaf && shift == 22 && entry & 1 << 21 != 0 {
                return Err(self.page_fault(linear, error | error::P | error::RSVD));
            }
            writable &= entry & WRITABLE != 0;
            user_page &= entry & USER != 0;
            path[depth] = (address, entry);
            depth += 1;
            if leaf {
                leaf_shift = shift;
                break;
            }
            table = if wide {
                entry & ADDRESS
            } else {
                entry & 0xFFFF_F000
            };
            shift -= if wide { 9 } else { 10 };
        }
        if !nxe {
            no_execute = false;
        }

        // Access rights (SDM 4.6).
        let key = if long && user_page && cr4 & bits::CR4_PKE != 0 {
            self.vcpu.regs.pkru >> (entry >> 59 & 0xF) * 2 & 3
        } else if long && !user_page && cr4 & bits::CR4_PKS != 0 {
            (self.vcpu.regs.msr.pkrs >> ((entry >> 59 & 0xF) * 2)) as u32 & 3
        } else {
            0
        };
        let write_protected = cr0 & bits::CR0_WP != 0;
        let (denied, key_denied) = if fetch {
            let denied =
                no_execute || user && !user_page || !user && user_page && cr4 & bits::CR4_SMEP != 0;
            (denied, false)
        } else {
            let ac = self.system_flags & flags::AC != 0;
            let smap =
                !user && user_page && cr4 & bits::CR4_SMAP != 0 && (actor == Actor::System || !ac);
            let denied =
                user && !user_page || smap || write && !writable && (user || write_protected);
            let key_denied = key & 1 != 0 || write && key & 2 != 0 && (user || write_protected);
            (denied, key_denied)
        };
        if denied || key_denied {
            // Told whether or not other rights deny the access as well (SDM 4.7).
            let pk = if key_denied { error::PK } else { 0 };
            return Err(self.page_fault(linear, error | error::P | pk));
        }

        // Accessed and dirty flags, top down.
        for (level, &(address, value)) in path[..depth].iter().enumerate() {
            let want = if level + 1 == depth && write {
                ACCESSED | DIRTY
            } else {
                ACCESSED
            };
            if value & want != want
                && !self.set_entry_bits(address, linear, value, want, if wide { 8 } else { 4 })?
            {
                // Another processor changed the entry meanwhile: walk again.
                return self.walk(linear, access, user, actor, rights_out);
            }
        }

        *rights_out =
            u64::from(user_page) << 9 | u64::from(writable) << 10 | u64::from(no_execute) << 11;
        let mask = (1u64 << leaf_shift) - 1;
        let base = if wide {
            entry & ADDRESS & !mask
        } else if leaf_shift == 22 {
            entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32
        } else {
            entry & 0xFFFF_F000
        };
        Ok(Walked {
            gpa: Gpa::new(base | linear & mask),
            size: leaf_shift as u8,
        })
    }

    fn read_entry(&mut self, address: Gpa, linear: u64, bytes: usize) -> Result<u64, Fault> {
        let access = PhysicalAccess {
            linear: Some(linear),
            access: Access::Read,
            walk: true,
            rights: 0,
        };
        let physical = self.physical(address, access)?;
        let offset = address.page_offset();
        match physical.ram {
            Some(ram) if bytes == 8 => Ok(ram.load_u64(offset)),
            Some(ram) => Ok(u64::from(ram.load_u32(offset))),
            None => {
                let mut buffer = [0; 8];
                self.read_slow(physical.page, offset, &mut buffer[..bytes])?;
                Ok(u64::from_le_bytes(buffer))
            }
        }
    }

    /// False when the entry is not what it was any more.
    fn set_entry_bits(
        &mut self,
        address: Gpa,
        linear: u64,
        old: u64,
        set: u64,
        bytes: u8,
    ) -> Result<bool, Fault> {
        let access = PhysicalAccess {
            linear: Some(linear),
            access: Access::Write,
            walk: true,
            rights: 0,
        };
        let physical = self.physical(address, access)?;
        let offset = address.page_offset();
        match physical.ram {
            Some(ram) => Ok(ram.compare_exchange(offset, bytes, old, old | set).is_ok()),
            None => {
                let value = (old | set).to_le_bytes();
                self.write_slow(physical.page, offset, &value[..bytes as usize])?;
                Ok(true)
            }
        }
    }

    /// Reads the four PDPTEs from CR3, as MOV to CR3 does with PAE paging: #GP(0) when a present one has
    /// reserved bits set.
    pub fn load_pdptes(&mut self, cr3: u64) -> Result<(), Fault> {
        let mut pdptes = [0; 4];
        for (index, pdpte) in pdptes.iter_mut().enumerate() {
            let address = Gpa::new((cr3 & 0xFFFF_FFE0) + index as u64 * 8);
            let access = PhysicalAccess {
                linear: None,
                access: Access::Read,
                walk: true,
                rights: 0,
            };
            let physical = self.physical(address, access)?;
            let mut bytes = [0; 8];
            match &physical.ram {
                Some(ram) => ram.read(address.page_offset(), &mut bytes),
                None => self.read_slow(physical.page, address.page_offset(), &mut bytes)?,
            }
            *pdpte = u64::from_le_bytes(bytes);
            if *pdpte & PRESENT != 0 && *pdpte & 0xFFF0_0000_0000_01E6 != 0 {
                return Err(Fault::GP0);
            }
        }
        self.vcpu.regs.pdpte = pdptes;
        Ok(())
    }
}
