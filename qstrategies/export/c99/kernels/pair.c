/* Two tensors that broadcast to y: their elements are as many steps apart, 0 where one repeats. */
struct pair {
    int32_t elements;
    struct dimensions dimensions;
    const int32_t *a_step, *b_step;
};
