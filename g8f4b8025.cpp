#include <nn/embedding.hpp>
