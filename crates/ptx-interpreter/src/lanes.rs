//! One register of one warp: 32 values of up to 64 bits, narrow ones zero-extended; and functions over whole warps.

use half::{bf16, f16};

/// Lanes of a warp.
pub(crate) const WARP: usize = 32;

/// What one register holds in each lane.
pub(crate) type Lanes = [u64; WARP];

/// A function of up to three registers, applied to all lanes.
pub(crate) type Map = fn(&mut Lanes, &Lanes, &Lanes, &Lanes);

/// A comparison of two registers; a bit a lane.
pub(crate) type Compare = fn(&Lanes, &Lanes) -> u32;

/// A type that a register can hold.
pub(crate) trait Lane: Copy {
    fn of(bits: u64) -> Self;
    fn bits(self) -> u64;
}

macro_rules! integers {
    ($($t:ty as $u:ty),*) => {$(
        impl Lane for $t {
            fn of(bits: u64) -> Self { bits as $t }
            fn bits(self) -> u64 { u64::from(self as $u) }
        }
    )*};
}
integers!(u8 as u8, i8 as u8, u16 as u16, i16 as u16, u32 as u32, i32 as u32, u64 as u64, i64 as u64);

impl Lane for f32 {
    fn of(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}
impl Lane for f64 {
    fn of(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}
impl Lane for f16 {
    fn of(bits: u64) -> Self {
        f16::from_bits(bits as u16)
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}
impl Lane for bf16 {
    fn of(bits: u64) -> Self {
        bf16::from_bits(bits as u16)
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}
/// Packed pairs: element 0 is the low half.
impl<T: Lane> Lane for [T; 2] {
    fn of(bits: u64) -> Self {
        [T::of(bits & 0xffff), T::of(bits >> 16 & 0xffff)]
    }
    fn bits(self) -> u64 {
        self[0].bits() | self[1].bits() << 16
    }
}

/// Half-precision arithmetic through wider types, rounded once.
pub(crate) trait Half: Lane {
    fn wide(self) -> f64;
    fn round(x: f64) -> Self;
}
impl Half for f16 {
    fn wide(self) -> f64 {
        self.to_f64()
    }
    fn round(x: f64) -> Self {
        f16::from_f64(x)
    }
}
impl Half for bf16 {
    fn wide(self) -> f64 {
        self.to_f64()
    }
    fn round(x: f64) -> Self {
        bf16::from_f64(x)
    }
}

/// `map!(f32, |a, b, c| a * b + c)`: the function for a whole warp.
macro_rules! map {
    ($t:ty, ($($a:ident),*) $e:expr) => { $crate::lanes::map!($t, |$($a),*| $e) };
    ($t:ty, |$a:ident| $e:expr) => {
        $crate::lanes::map!($t, |$a, _b, _c| $e)
    };
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {
        $crate::lanes::map!($t, |$a, $b, _c| $e)
    };
    ($t:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        fn map(
            d: &mut $crate::lanes::Lanes,
            a: &$crate::lanes::Lanes,
            b: &$crate::lanes::Lanes,
            c: &$crate::lanes::Lanes,
        ) {
            use $crate::lanes::Lane;
            for i in 0..$crate::lanes::WARP {
                let ($a, $b, $c) = (<$t>::of(a[i]), <$t>::of(b[i]), <$t>::of(c[i]));
                d[i] = Lane::bits($e);
            }
        }
        map as $crate::lanes::Map
    }};
}
pub(crate) use map;

/// `compare!(f32, |a, b| a < b)`.
macro_rules! compare {
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {{
        fn compare(a: &$crate::lanes::Lanes, b: &$crate::lanes::Lanes) -> u32 {
            use $crate::lanes::Lane;
            let mut mask = 0;
            for i in 0..$crate::lanes::WARP {
                let ($a, $b) = (<$t>::of(a[i]), <$t>::of(b[i]));
                mask |= u32::from($e) << i;
            }
            mask
        }
        compare as $crate::lanes::Compare
    }};
}
pub(crate) use compare;

/// The lanes of a mask, in order.
pub(crate) fn lanes_of(mask: u32) -> impl DoubleEndedIterator<Item = usize> + Clone {
    (0..WARP).filter(move |lane| mask >> lane & 1 == 1)
}
