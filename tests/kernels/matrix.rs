use super::*;

#[test]
#[should_panic(expected = "does not fit into 11 numbers")]
fn a_matrix_stays_inside_its_slice() {
    Matrix::new(&[0.0_f32; 11], 3, 4, 4, 1);
}

#[test]
#[should_panic(expected = "does not fit")]
fn a_reach_beyond_all_numbers_is_outside() {
    Matrix::new(&[0.0_f32; 11], 3, 4, 1 << (usize::BITS - 1), 1);
}

#[test]
#[should_panic(expected = "overlap")]
fn no_entry_is_written_twice() {
    MatrixMut::new(&mut [0.0_f32; 12], 3, 4, 3, 1);
}

#[test]
#[should_panic(expected = "columns 2..5")]
fn parts_stay_inside_their_matrix() {
    Matrix::new(&[0.0_f32; 12], 3, 4, 4, 1).columns(2..5);
}
