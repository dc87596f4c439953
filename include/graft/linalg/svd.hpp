// SPDX-License-Identifier: Apache-2.0
// Truncated singular value decompositions of a dense matrix and of a low-rank product, with the error of what was cut.
// Everything is computed in double and rounded to T at the end. Read next: methods/merge.hpp.
#pragma once
#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <utility>

#include "graft/linalg/eigen_view.hpp"

namespace graft {

/// W = U diag(s) V^T up to what was cut. K singular values are kept: the rank asked for, or as many as there are.
template <class T>
struct truncated_svd {
  tensor<T, 2> u;    // (M, K), orthonormal columns
  tensor<T, 1> s;    // (K), not negative, falling
  tensor<T, 2> v;    // (N, K), orthonormal columns
  double error = 0;  // |W - U diag(s) V^T|, Frobenius: the cut singular values, before rounding to T
  double norm = 0;   // |W|, Frobenius

  /// error / norm; 0 for a matrix of zeros.
  double relative_error() const { return norm == 0 ? 0 : error / norm; }
};

namespace detail {

struct dense_svd {
  Eigen::MatrixXd u, v;
  Eigen::VectorXd s;
};

// Templates, called for double alone: whoever only includes this does not compile a decomposition.

template <class Scalar>
dense_svd svd_of(const Eigen::MatrixX<Scalar>& w) {
  Eigen::BDCSVD<Eigen::MatrixX<Scalar>> svd(w, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU(), svd.matrixV(), svd.singularValues()};
}

/// x = q r with orthonormal columns in q (M, K) and r (K, N), K = min(M, N).
struct thin_qr {
  Eigen::MatrixXd q, r;
};
template <class Scalar>
Eigen::MatrixX<Scalar> upper_part(const Eigen::HouseholderQR<Eigen::MatrixX<Scalar>>& qr) {
  const auto& packed = qr.matrixQR();
  return packed.topRows(std::min(packed.rows(), packed.cols())).template triangularView<Eigen::Upper>();
}
template <class Scalar>
thin_qr qr_of(const Eigen::MatrixX<Scalar>& x) {
  const Eigen::HouseholderQR<Eigen::MatrixX<Scalar>> qr(x);
  return {qr.householderQ() * Eigen::MatrixX<Scalar>::Identity(x.rows(), std::min(x.rows(), x.cols())), upper_part<Scalar>(qr)};
}

/// As doubles. Throws shape_error when there are no elements, state_error when one is not finite.
template <class T>
Eigen::MatrixXd checked_double(std::string_view what, tensor_view<const T, 2> x) {
  if (x.size() == 0) throw_error<shape_error>(what, ": a matrix of shape ", to_string(x.shape), " has no elements");
  Eigen::MatrixXd m = as_eigen(x).template cast<double>();
  if (!m.allFinite()) throw_error<state_error>(what, ": a matrix of shape ", to_string(x.shape), " holds NaN or infinity");
  return m;
}
inline void check_rank(std::string_view what, index_t rank) {
  if (rank < 1) throw_error<option_error>(what, ": rank is ", rank, ", expected 1 or more");
}
template <class T>
void check_factors(std::string_view what, tensor_view<const T, 2> b, tensor_view<const T, 2> a) {
  if (b.shape[1] != a.shape[0])
    throw_error<shape_error>(what, ": the factors ", to_string(b.shape), " and ", to_string(a.shape), " have no product");
}

template <class T>
tensor<T, 2> leading_columns(const Eigen::MatrixXd& m, index_t count) {
  tensor<T, 2> t({m.rows(), count});
  as_eigen(t) = m.leftCols(count).template cast<T>();
  return t;
}

template <class T>
truncated_svd<T> truncate(const dense_svd& full, index_t rank) {
  const index_t k = std::min<index_t>(rank, full.s.size());
  truncated_svd<T> svd{leading_columns<T>(full.u, k), tensor<T, 1>({k}), leading_columns<T>(full.v, k)};
  as_eigen(svd.s) = full.s.head(k).template cast<T>();
  svd.error = full.s.tail(full.s.size() - k).norm();
  svd.norm = full.s.norm();
  return svd;
}

}  // namespace detail

/// The best approximation of w (M, N) by a matrix of this rank, in the Frobenius norm (Eckart and Young 1936).
/// Cost: about 20 M N min(M, N) flops by divide and conquer on the calling thread, and a few copies of w in double.
/// Throws option_error for a rank below 1, shape_error without elements, state_error for NaN or infinity.
template <class T>
truncated_svd<T> svd(tensor_view<const T, 2> w, index_t rank) {
  detail::check_rank("svd", rank);
  return detail::truncate<T>(detail::svd_of<double>(detail::checked_double<T>("svd", w)), rank);
}
template <class T>
truncated_svd<T> svd(const tensor<T, 2>& w, index_t rank) { return svd<T>(w.view(), rank); }

/// The same of b a, with b (M, R) and a (R, N), which is never formed: QR of both factors, then the SVD of a core of at most
/// (R, R). At most R singular values are kept. Cost: of order (M + N) R^2 + R^3 flops. Errors as above.
template <class T>
truncated_svd<T> svd_of_product(tensor_view<const T, 2> b, std::type_identity_t<tensor_view<const T, 2>> a, index_t rank) {
  detail::check_rank("svd_of_product", rank);
  detail::check_factors<T>("svd_of_product", b, a);
  const auto left = detail::qr_of<double>(detail::checked_double<T>("svd_of_product", b));
  const auto right = detail::qr_of<double>(detail::checked_double<T>("svd_of_product", a).transpose());
  auto core = detail::svd_of<double>(left.r * right.r.transpose());
  core.u = left.q * core.u;
  core.v = right.q * core.v;
  return detail::truncate<T>(core, rank);
}
template <class T>
truncated_svd<T> svd_of_product(const tensor<T, 2>& b, const tensor<T, 2>& a, index_t rank) { return svd_of_product<T>(b.view(), a.view(), rank); }

/// The Frobenius norm of b a without forming it, exact to rounding even where large terms cancel. Errors as above.
template <class T>
double norm_of_product(tensor_view<const T, 2> b, std::type_identity_t<tensor_view<const T, 2>> a) {
  detail::check_factors<T>("norm_of_product", b, a);
  const auto upper = [](const auto& x) { return detail::upper_part<double>(Eigen::HouseholderQR<Eigen::MatrixX<double>>(x)); };
  return (upper(detail::checked_double<T>("norm_of_product", b)) * upper(detail::checked_double<T>("norm_of_product", a).transpose()).transpose()).norm();
}

}  // namespace graft
