/* ESP-IDF calls app_main; here main does. */
void app_main(void);

int main(void)
{
    app_main();
    return 0;
}
