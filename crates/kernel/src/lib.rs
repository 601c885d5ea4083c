//! The kernel side: looks at links, addresses, routes, neighbours, sysctls and nft tables, and changes them.

pub mod nft;
