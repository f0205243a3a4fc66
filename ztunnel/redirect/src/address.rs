//! Between the standard library's addresses and the kernel side's words.

use std::net::IpAddr;

use abi::Address;

pub(crate) fn words(ip: IpAddr) -> Address {
    let octets = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (words, _) = octets.as_chunks::<4>();
    let mut address = Address::default();
    for (word, octets) in address.0.iter_mut().zip(words) {
        *word = u32::from_ne_bytes(*octets);
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_the_kernel_side_reads() {
        let v4 = words("10.1.2.3".parse().unwrap());
        assert!(v4.is_v4());
        assert_eq!(u32::from_be(v4.0[3]), 0x0a01_0203);
        let v6 = words("fd00::1".parse().unwrap());
        assert!(!v6.is_v4() && !v6.is_local_only());
        assert_eq!(u32::from_be(v6.0[0]), 0xfd00_0000);
    }
}
