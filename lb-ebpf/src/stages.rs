//! The programs of every stage but the first, for the objects that have them.

/// Defines the program of each stage, which runs it by `$run`: a function of the context that
/// the kernel gives and of a function of `balance`.
#[macro_export]
macro_rules! stages {
    ($run:ident) => {
        $crate::stages! {
            $run:
            /// Packets of half-open flows, IPv4.
            half_open4
            /// Packets of half-open flows, IPv6.
            half_open6
            /// Packets of no flow, IPv4.
            admit4
            /// Packets of no flow, IPv6.
            admit6
            /// Answers with a RST, IPv4.
            reset4
            /// Answers with a RST, IPv6.
            reset6
            /// ICMP messages.
            icmp4
            /// ICMPv6 messages.
            icmp6
            /// Echo requests, IPv4.
            echo4
            /// Echo requests, IPv6.
            echo6
            /// Fragments, IPv4.
            fragment4
            /// Fragments, IPv6.
            fragment6
            /// Packets that come back from another stage.
            again
            /// Packets to servers that answer clients themselves.
            one_way
            /// Packets that do not fit once they are encapsulated, IPv4.
            too_big4
            /// Packets that do not fit once they are encapsulated, IPv6.
            too_big6
            /// SYN cookies, IPv4.
            cookie4
            /// SYN cookies, IPv6.
            cookie6
            /// Packets of half-open flows behind SYN cookies, IPv4.
            splice4
            /// Packets of half-open flows behind SYN cookies, IPv6.
            splice6
            /// Packets of confirmed flows behind SYN cookies, IPv4.
            shift4
            /// Packets of confirmed flows behind SYN cookies, IPv6.
            shift6
        }
    };
    ($run:ident: $($(#[$doc:meta])+ $stage:ident)+) => {
        $(
            $(#[$doc])+
            #[::aya_ebpf::macros::xdp]
            fn $stage(ctx: ::aya_ebpf::programs::XdpContext) -> u32 {
                $run(&ctx, $crate::balance::$stage)
            }
        )+
    };
}
