static void copy(const uint8_t *x, uint8_t *y, int32_t elements)
{
    for (int32_t i = 0; i < elements; i++)
        y[i] = x[i];
}
