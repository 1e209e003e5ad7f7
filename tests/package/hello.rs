// SPDX-License-Identifier: GPL-2.0
//! Says hello.
use kernel::prelude::*;
module! {
    type: Hello,
    name: "hello",
    authors: ["rpmem"],
    description: "says hello",
    license: "GPL",
}
struct Hello;
impl kernel::Module for Hello {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("hello\n");
        Ok(Hello)
    }
}
