//! Whether the target is the argmax.

use super::*;

#[test]
fn the_first_of_equal_logits_is_the_argmax() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows: [([f32; 4], Option<usize>); 10] = [
        ([1.0, 2.0, 2.0, 2.0], Some(1)),
        ([2.0, 2.0, 1.0, 2.0], Some(0)),
        ([-3.0, -2.0, -1.0, -1.0], Some(2)),
        ([0.0, -0.0, 0.0, -1.0], Some(0)),
        ([-inf, -inf, -1e38, -inf], Some(2)),
        ([-inf, -inf, -inf, -inf], Some(0)),
        ([0.0, inf, 7.0, inf], Some(1)),
        ([f32::MIN, 0.0, f32::MAX, f32::MAX], Some(2)),
        ([5.0, nan, 1.0, 1.0], None),
        ([inf, 1.0, 1.0, nan], None),
    ];
    on_every_device(|on| {
        for dtype in on.arithmetic_dtypes() {
            for token in [-1, 0, 1, 2, 3, 4] {
                let batch = Batch {
                    sequences: rows.len(),
                    time: 2,
                    vocab: 4,
                    logits: rows.iter().flat_map(|(row, _)| [*row, [0.0; 4]].concat()).collect(),
                    tokens: [0, token].repeat(rows.len()),
                    mask: [false, true].repeat(rows.len()),
                    upstream: vec![1.0; rows.len()],
                };
                let actual = booleans(&statistics(&batch, &on.device, dtype).is_argmax());
                let expected = rows.map(|(_, first)| first.is_some_and(|first| first as i64 == token));
                prop_assert_eq!(actual, expected, "token {}", token);
            }
        }
        Ok(())
    });
}

/// Far beyond what 8 and 16 bits count to, where a row is more than one block, and where SIMD is used.
#[test]
fn the_argmax_of_a_large_vocabulary_is_found_wherever_it_is() {
    on_every_device(|on| {
        let vocab = 70_001;
        for largest in [0, 255, 256, 65_536, 70_000] {
            let mut row = vec![0.25f32; vocab];
            row[largest] = 0.5;
            row[vocab - 1] = 0.5;
            let batch = Batch {
                sequences: 3,
                time: 2,
                vocab,
                logits: [row, vec![0.0; vocab]].concat().repeat(3),
                tokens: vec![0, largest as i64, 0, 1, 0, vocab as i64 - 1],
                mask: [false, true].repeat(3),
                upstream: vec![1.0; 3],
            };
            let actual = booleans(&statistics(&batch, &on.device, DType::F32).is_argmax());
            prop_assert_eq!(actual, [true, false, largest == vocab - 1], "largest at {}", largest);
        }
        Ok(())
    });
}
