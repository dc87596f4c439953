// SPDX-License-Identifier: Apache-2.0
// graft tensors seen as Eigen matrices and Eigen matrices seen as graft views, without a copy. Read next: tensor/matmul.hpp.
#pragma once
#include <Eigen/Core>

#include "graft/core/tensor.hpp"

namespace graft {

namespace detail {

template <class T, class Eigen_type>
using like_const = std::conditional_t<std::is_const_v<T>, const Eigen_type, Eigen_type>;
template <class T>
using eigen_matrix = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using eigen_vector = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1>;

}  // namespace detail

/// A matrix of T, or const T, over elements that graft owns, of any strides.
template <class T>
using eigen_matrix_view = Eigen::Map<detail::like_const<T, detail::eigen_matrix<T>>, Eigen::Unaligned, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
/// A column vector likewise.
template <class T>
using eigen_vector_view = Eigen::Map<detail::like_const<T, detail::eigen_vector<T>>, Eigen::Unaligned, Eigen::InnerStride<Eigen::Dynamic>>;

/// The same elements for Eigen; valid as long as the view's are. Writing through it writes the tensor.
template <class T>
eigen_matrix_view<T> as_eigen(tensor_view<T, 2> x) {
  return {x.data, x.shape[0], x.shape[1], Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(x.stride[0], x.stride[1])};
}
template <class T>
eigen_vector_view<T> as_eigen(tensor_view<T, 1> x) {
  return {x.data, x.shape[0], Eigen::InnerStride<Eigen::Dynamic>(x.stride[0])};
}
template <class T, std::size_t Rank>
auto as_eigen(tensor<T, Rank>& x) { return as_eigen(x.view()); }
template <class T, std::size_t Rank>
auto as_eigen(const tensor<T, Rank>& x) { return as_eigen(x.view()); }
template <class T, std::size_t Rank>  // its elements are about to go
void as_eigen(tensor<T, Rank>&&) = delete;

namespace detail {

template <class T, class M>
auto view_of_eigen(T* data, const M& m) {
  if constexpr (M::IsVectorAtCompileTime) return tensor_view<T, 1>(data, {m.size()}, {m.innerStride()});
  else return tensor_view<T, 2>(data, {m.rows(), m.cols()}, {m.rowStride(), m.colStride()});
}

template <class M>
void eigen_dense(const Eigen::DenseBase<M>&);
template <class M>
void eigen_owner(const Eigen::PlainObjectBase<M>&);

/// Whether an expression is stored somewhere that outlives the call, rather than computed when it is read.
template <class M, class Plain = std::remove_cvref_t<M>>
concept stored_eigen = requires(Plain m) { eigen_dense(m); } && (int{Plain::Flags} & Eigen::DirectAccessBit) != 0 &&
                       (std::is_lvalue_reference_v<M> || !requires(Plain m) { eigen_owner(m); });

}  // namespace detail

/// The elements of an Eigen matrix, array, map or block of either storage order, for graft: a vector for what Eigen knows to
/// be one, else a matrix. Valid as long as the elements are. Expressions that are computed when read have none: eval() them
/// into a matrix first.
template <detail::stored_eigen M>
auto as_view(M&& m) { return detail::view_of_eigen(m.data(), m); }

}  // namespace graft
