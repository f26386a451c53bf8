//! Entries of an L2 VM's Secure EPT (spec: host-memory.md 1.2).

use super::Details;
use x86_arch::Hpa;

/// A raw L2 Secure-EPT entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct L2Entry(pub u64);

const R: u64 = 1 << 0;
const W: u64 = 1 << 1;
const XS: u64 = 1 << 2;
const SAVED: u64 = 0b111 << 3;
const IPAT: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const XU: u64 = 1 << 10;
const HPA: u64 = 0x000F_FFFF_FFFF_F000;
const BLOCKED: u64 = 1 << 55;
const SAVED_W: u64 = 1 << 59;
const SUPPRESS_VE: u64 = 1 << 63;
const ACCESS: u64 = R | W | XS | XU;
const WRITE_BACK: u64 = 6 << 3;

impl L2Entry {
    pub const FREE: L2Entry = L2Entry(0);

    /// An entry that leads to a further page.
    pub const fn table(page: Hpa) -> L2Entry {
        L2Entry(ACCESS | page.raw() & HPA)
    }
    pub const fn is_free(self) -> bool {
        self.0 & (BLOCKED | IPAT | PS | R) == 0
    }
    pub const fn is_leaf(self) -> bool {
        self.0 & PS != 0
    }
    pub const fn is_blocked(self) -> bool {
        self.0 & BLOCKED != 0
    }
    pub const fn is_accessible(self) -> bool {
        self.0 & (R | W | XS) != 0
    }
    pub const fn hpa(self) -> Hpa {
        Hpa::new(self.0 & HPA)
    }
    pub const fn with_hpa(self, page: Hpa) -> L2Entry {
        L2Entry(self.0 & !HPA | page.raw() & HPA)
    }
    /// RANGE.BLOCK of an alias; `keep_w`: whether the L1 entry let the guest write.
    pub const fn blocked(self, keep_w: bool) -> L2Entry {
        if !self.is_leaf() {
            return L2Entry(self.0 & !ACCESS | BLOCKED);
        }
        let raw = self.0;
        let saved = (raw & R) << 3 | (raw & XS) << 2 | (raw & XU) >> 5;
        let w = if keep_w && raw & W != 0 { SAVED_W } else { 0 };
        L2Entry(raw & !(ACCESS | SAVED | SAVED_W) | saved | w | BLOCKED)
    }
    /// RANGE.UNBLOCK of an alias.
    pub const fn unblocked(self) -> L2Entry {
        let raw = self.0;
        if !self.is_leaf() {
            return L2Entry(raw & !(BLOCKED | SAVED | SAVED_W) | ACCESS);
        }
        let access = (raw >> 3 & R) | (raw >> 2 & XS) | (raw << 5 & XU);
        let w = if raw & SAVED_W != 0 { W } else { 0 };
        L2Entry(raw & !(BLOCKED | SAVED | SAVED_W | ACCESS) | access | w | WRITE_BACK)
    }

    /// The attribute word: 0 R, 1 W, 2 Xs, 3 Xu, 4 VGP, 5 PWA, 6 SSS, 7 SVE, 15 valid.
    pub const fn attributes(self) -> u16 {
        let raw = match self.is_blocked() {
            true => self.unblocked().0,
            false => self.0,
        };
        (raw & 7
            | (raw >> 10 & 1) << 3
            | (raw >> 57 & 1) << 4
            | (raw >> 58 & 1) << 5
            | (raw >> 60 & 1) << 6
            | (raw >> 63 & 1) << 7
            | 1 << 15) as u16
    }
    /// A leaf of `page` with these attributes (bit 15 of the word means nothing here).
    pub const fn leaf(page: Hpa, attributes: u16) -> L2Entry {
        let a = attributes as u64;
        let rights = a & 7 | (a >> 3 & 1) << 10;
        let others =
            (a >> 4 & 1) << 57 | (a >> 5 & 1) << 58 | (a >> 6 & 1) << 60 | (a >> 7 & 1) << 63;
        L2Entry(rights | others | WRITE_BACK | IPAT | PS | page.raw() & HPA)
    }
    const fn public_state(self) -> u64 {
        let leaf = self.0 & (IPAT | PS) == IPAT | PS;
        match (self.is_blocked(), leaf, self.0 & R != 0) {
            (false, false, false) if self.0 & PS == 0 => 64,
            (false, false, true) => 196,
            (true, false, false) => 193,
            (false, true, false) => 68,
            (true, true, false) => 65,
            // A mapped leaf with R is looked up under a number that the module's table does not have.
            _ => 0,
        }
    }
    /// RCX and RDX for an entry of VM `vm` at `level`.
    pub const fn details(self, level: u8, vm: u8, debug: bool) -> Details {
        const LEAF: u64 = SAVED | HPA | IPAT | PS | SUPPRESS_VE;
        const ATTRIBUTES: u64 = ACCESS | 0b1111 << 57;
        let entry = if self.is_free() {
            SUPPRESS_VE
        } else if !self.is_leaf() {
            self.0 & (ACCESS | PS)
        } else if debug {
            self.0 & (LEAF | ATTRIBUTES)
        } else if self.is_blocked() {
            self.0 & LEAF
        } else {
            self.0 & LEAF | ACCESS
        };
        Details {
            entry,
            level_and_state: level as u64 | self.public_state() << 8 | (vm as u64) << 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_entry_is_shown_as_free_of_its_vm() {
        let shown = L2Entry::FREE.details(4, 1, false);
        assert_eq!((shown.entry, shown.level_and_state), (1 << 63, 0x14004));
    }

    #[test]
    fn a_leaf_has_the_attributes_it_was_made_with() {
        for attributes in [0x8001, 0x800F, 0x8071, 0x8047] {
            let leaf = L2Entry::leaf(Hpa::new(0x1234_5000), attributes);
            assert_eq!(leaf.attributes(), attributes);
            assert_eq!(leaf.hpa(), Hpa::new(0x1234_5000));
            assert_eq!(leaf.blocked(true).attributes(), attributes);
        }
    }

    #[test]
    fn unblocking_gives_an_alias_its_rights_back() {
        let table = L2Entry::table(Hpa::new(0x1000));
        assert_eq!(table.blocked(true).unblocked(), table);
        let leaf = L2Entry(R | XU | W | WRITE_BACK | IPAT | PS | 0x20_0000);
        assert_eq!(leaf.blocked(true).unblocked(), leaf);
        assert_eq!(leaf.blocked(false).unblocked(), L2Entry(leaf.0 & !W));
    }
}
