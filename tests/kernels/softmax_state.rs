use super::{
    super::{
        naive::{assert_near, logits, narrow, state_of},
        read_rows::read_rows,
        tasks::segment_width,
    },
    *,
};

/// Tiles of the vocabulary in any order; parts merged; and as many tasks as eight threads ask for.
#[test]
fn parts_make_the_whole() {
    let width = 30_011;
    for (spread, offset) in [(0.0, 0.0), (6.0, 0.0), (30.0, 1e4)] {
        let z: Vec<f32> = narrow(&logits(width, spread, offset));
        let target = 20_000;
        let whole = state_of(&z, target);
        let agrees = |what: &str, sum: SoftmaxState| {
            assert_near(what, sum.log_prob(), whole.log_prob(), 4.2e-6);
            assert_near(what, sum.entropy(), whole.entropy(), 5e-5);
            assert_near(what, sum.log_sum_sq_probs(), whole.log_sum_sq_probs(), 8e-6);
            assert_near(what, sum.logit_sum, whole.logit_sum, 4e-6 * (whole.logit_sum.abs() + 1e5));
            assert_eq!(
                (sum.argmax, sum.max_count, sum.max, sum.target_logit),
                (whole.argmax, whole.max_count, whole.max, whole.target_logit)
            );
        };
        let part = |from: usize, to: usize, sum: SoftmaxState| {
            let mut sums = [sum];
            read_rows(&z[from..to], to - from, &[target], from, true, &mut sums);
            sums[0]
        };
        let [a, b, c] = [(0, 999), (999, 22_000), (22_000, width)];
        let each = [a, b, c].map(|(from, to)| part(from, to, SoftmaxState::EMPTY));
        agrees("added in turn", part(c.0, c.1, part(a.0, a.1, part(b.0, b.1, SoftmaxState::EMPTY))));
        agrees("merged", each[0].merge(each[1]).merge(each[2]));
        agrees("merged from the right", each[0].merge(each[1].merge(each[2])));
        agrees("merged backwards", each[2].merge(each[1]).merge(each[0]));
        agrees("with nothing", SoftmaxState::EMPTY.merge(whole).merge(SoftmaxState::EMPTY));

        let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
        pool.install(|| {
            assert!(segment_width(width, &[target]) < width);
            let first = state_of(&z, target);
            agrees("segments", first);
            assert_eq!(first, state_of(&z, target));
        });
    }
}

#[test]
fn merging_keeps_what_is_no_number() {
    let finite = state_of(&[1.0f32, 2.0], 0);
    for odd in [f32::NAN, f32::INFINITY] {
        let odd = state_of(&[odd, 0.0], -2);
        for merged in [finite.merge(odd), odd.merge(finite), odd.merge(odd), odd.merge(SoftmaxState::EMPTY)] {
            assert!(merged.log_prob().is_nan() && merged.entropy().is_nan());
            assert!(merged.argmax == odd.argmax || merged.argmax.is_nan() && odd.argmax.is_nan());
        }
    }
    let nothing = state_of(&[f32::NEG_INFINITY; 3], -2);
    for merged in [finite.merge(nothing), nothing.merge(finite)] {
        assert_eq!((merged.log_prob(), merged.entropy()), (finite.log_prob(), finite.entropy()));
    }
    assert!(nothing.merge(nothing).log_sum_exp().is_nan() && SoftmaxState::EMPTY.log_sum_exp().is_nan());
}
