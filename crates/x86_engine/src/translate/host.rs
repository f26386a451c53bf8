//! What the host's processor has of the instructions that are copied.

use iced_x86::{CpuidFeature, Instruction};

macro_rules! features {
    ($($feature:ident $name:tt)*) => {
        /// CPUID features that not every x86-64 processor has, with their names in Rust.
        const FEATURES: &[(CpuidFeature, &str)] = &[$((CpuidFeature::$feature, $name),)*];

        fn detect() -> Vec<bool> {
            vec![$(host_has!($name),)*]
        }
    };
}

features! {
    SSE3 "sse3" SSSE3 "ssse3" SSE4_1 "sse4.1" SSE4_2 "sse4.2" AES "aes" PCLMULQDQ "pclmulqdq" SHA "sha" GFNI "gfni"
    AVX "avx" AVX2 "avx2" FMA "fma" F16C "f16c" VAES "vaes" VPCLMULQDQ "vpclmulqdq"
}

/// A set of [`FEATURES`], one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host(u32);

impl Host {
    pub fn detected() -> Host {
        let bits = detect().into_iter().enumerate();
        Host(bits.fold(0, |set, (n, has)| set | u32::from(has) << n))
    }

    /// The same processor without the feature of that name; false when there is none.
    pub fn drop_feature(&mut self, name: &str) -> bool {
        match FEATURES.iter().position(|(_, known)| *known == name) {
            Some(n) => {
                self.0 &= !(1 << n);
                true
            }
            None => false,
        }
    }

    pub fn has(self, feature: CpuidFeature) -> bool {
        // Of every x86-64 processor.
        matches!(feature, CpuidFeature::SSE | CpuidFeature::SSE2)
            || FEATURES
                .iter()
                .position(|(known, _)| *known == feature)
                .is_some_and(|n| self.0 >> n & 1 != 0)
    }

    pub fn can_execute(self, insn: &Instruction) -> bool {
        insn.cpuid_features()
            .iter()
            .all(|&feature| self.has(feature))
    }
}

#[cfg(test)]
impl Host {
    /// A processor that has all of them.
    pub fn complete() -> Host {
        Host((1 << FEATURES.len()) - 1)
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        FEATURES.iter().map(|(_, name)| *name)
    }
}
