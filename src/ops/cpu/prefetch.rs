//! Asking for memory before it is needed.
//!
//! The arithmetic of a number takes longer than a processor can look ahead in its instructions, so that the next numbers
//! are asked for too late: reading and computing take turns. On some machines, virtual ones among them, nothing else
//! reads ahead.

use super::dtype::LANES;

/// How far ahead, in bytes: what arrives while a cache line is waited for, several times over.
const AHEAD: usize = 2048;

/// A cache line.
const LINE: usize = 64;

/// Hints at what comes [`AHEAD`] of a chunk, if the processor takes hints. There need not be anything.
#[inline(always)]
pub(super) fn prefetch<T>(chunk: &[T; LANES]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(sse) = pulp::core_arch::x86::Sse::try_new() {
        use std::arch::x86_64::_MM_HINT_T0;

        let ahead = chunk.as_ptr().cast::<i8>().wrapping_add(AHEAD);
        for line in (0..size_of_val(chunk)).step_by(LINE) {
            sse._mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = chunk;
}
