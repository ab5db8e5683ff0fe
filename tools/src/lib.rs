//! What the tools share. These files belong to the trainer, which is a program and cannot be depended on.

#[path = "../../trainer/src/device.rs"]
pub mod device;
#[path = "../../trainer/src/drawing.rs"]
pub mod drawing;
#[path = "../../trainer/src/exit.rs"]
pub mod exit;
#[path = "../../trainer/src/output.rs"]
pub mod output;
