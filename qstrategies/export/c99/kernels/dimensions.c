/* The sizes of the dimensions of a tensor. */
struct dimensions {
    int32_t count;
    const int32_t *size;
};
